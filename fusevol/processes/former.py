"""Mounts that were made earlier, and what becomes of another mount at their places.

A mount that was unmounted lives on while another mount namespace has a copy of it, or a file is
open on it. Two servers would number the records of one log.
"""

import os
import select
from typing import Final

import msgspec

from fusevol.errors import FusevolError
from fusevol.linux.process import Process
from fusevol.mounts import mounting, registry
from fusevol.mounts.encoding import decode
from fusevol.mounts.mount_lock import alone_at
from fusevol.mounts.registry import MountEntry
from fusevol.options.config import NO_LOG, STDOUT_LOG, MountConfig
from fusevol.processes.channel import Start
from fusevol.processes.fdstore import duplicate
from fusevol.processes.succession import await_heir
from fusevol.recovery.region import CONFIG, Region

_SETTLE_S: Final = 5.0
"""How long a keeper has to end whose mount was unmounted and is not in use."""


def running(config: MountConfig) -> Process | None:
    """Return the keeper of this very mount, started earlier by somebody else, if there is one.

    A mount that is served otherwise is another one.
    """
    served = registry.get(config.mountpoint)
    if served is None or not registry.is_mounted(served):
        return put_back(config)
    if (served.source, served.name, served.log, served.level) != (
        config.source, config.name, config.log, config.level.value
    ):  # fmt: skip
        return None
    if not served.keeper.runs():
        return await_heir(config.mountpoint, served.pid, None)
    return served.keeper


def put_back(config: MountConfig) -> Process | None:
    """Mount again what was unmounted and lives on elsewhere; return its keeper.

    Returns:
        None if there is nothing of the kind, or its log is another's, or it has just ended.

    Raises:
        FusevolError: it lives on and has other options.
    """
    served = registry.get(config.mountpoint)
    if served is None or served.log != config.log or registry.is_mounted(served):
        return None
    if not served.keeper.runs():
        return None
    kept = _config_of(served)
    if kept is None:
        return None
    if msgspec.structs.replace(kept, flags=config.flags) != config:
        if _ends_within(served.keeper, _SETTLE_S):
            return None
        raise FusevolError(
            f"{config.mountpoint} was unmounted here but is still in use elsewhere, with other "
            f"options; stop its users, or end it: kill {served.pid} (its keeper)"
        )
    device = duplicate(served.keeper, served.device_fd)
    if device < 0:
        return None
    try:
        with alone_at(config.mountpoint):
            if registry.is_mounted(served):
                return None  # Another has just put it back.
            single_file = os.path.isfile(config.mountpoint)
            mounting.mount_again(config, device, single_file, served.flags)
    except OSError:
        return None
    finally:
        os.close(device)
    return served.keeper


def await_end(log: str) -> None:
    """Wait until a mount that was just unmounted lets go of its log; umount(8) does not."""
    for served in registry.served_elsewhere():
        if served.log == log and log not in (NO_LOG, STDOUT_LOG):
            _ends_within(served.keeper, _SETTLE_S)


def _ends_within(process: Process, seconds: float) -> bool:
    pidfd = process.open()
    if pidfd < 0:
        return True
    try:
        return bool(select.select([pidfd], [], [], seconds)[0])
    finally:
        os.close(pidfd)


def _config_of(served: MountEntry) -> MountConfig | None:
    """Return what a keeper keeps; None if it has ended."""
    state = duplicate(served.keeper, served.state_fd)
    if state < 0:
        return None
    try:
        start: Start = decode(Region.attach(state).text(CONFIG), Start)
    finally:
        os.close(state)
    return start.config
