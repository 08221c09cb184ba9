"""The control group of a container of `fusevol run`: settings, freezing, killing, removal.

    .../fusevol/ID      in the unified hierarchy, and in those of version 1

The runtime creates it and sets its limits. Looking at it, freezing and removing it are here, as
they work without the runtime, too.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from fusevol.linux.mountinfo import mounts

_PARENT: Final = "fusevol"
_ROOT: Final = "/sys/fs/cgroup"


def mixed_hierarchy() -> str | None:
    """Return where version 2 is mounted beside version 1 (systemd's "hybrid"); None elsewhere.

    It has no controllers there, and not every runtime can do with it.
    """
    found = [one for one in mounts() if one.mountpoint.startswith(f"{_ROOT}/")]
    if not any(one.fstype == "cgroup" for one in found):
        return None
    return next((one.mountpoint for one in found if one.fstype == "cgroup2"), None)


def can_limit_swap() -> bool:
    """Return whether what a container swaps out can be limited (cgroups(7))."""
    for directory in _directories():
        if os.path.exists(os.path.join(directory, "memory.memsw.limit_in_bytes")):
            return True
        # The root of version 2 has no such file, its children have.
        with suppress(OSError), os.scandir(directory) as entries:
            if any(os.path.exists(os.path.join(one, "memory.swap.max")) for one in entries):
                return True
    return False


def lets_open_devices(container_id: str) -> bool:
    """Return whether version 1 lets a container open any device; version 2 has no file for it."""
    if all(one.fstype != "cgroup" for one in mounts()):
        return False
    return (setting(container_id, "devices.list") or "a").startswith("a")


def setting(container_id: str, name: str) -> str | None:
    """Return the content of a file of a container's control groups; None if they have none."""
    for path in _paths(container_id):
        with suppress(OSError), open(os.path.join(path, name)) as file:
            return file.read().strip()
    return None


def kill(container_id: str) -> None:
    """Send SIGKILL to each process of a container."""
    for path in _paths(container_id):
        with suppress(OSError), open(os.path.join(path, "cgroup.procs")) as file:
            for line in file:
                with suppress(ProcessLookupError):
                    os.kill(int(line), signal.SIGKILL)


def remove(container_id: str) -> bool:
    """Remove the control groups of a container; return whether it has none any more.

    The kernel keeps them while a process of the container ends.
    """
    gone = True
    for path in _paths(container_id):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue
        except OSError:
            gone = False
    return gone


def freeze(container_id: str, frozen: bool) -> bool:
    """Stop all processes of a container, or let them go on; return whether that is possible."""
    for path in _paths(container_id):
        for name, words in (("cgroup.freeze", "01"), ("freezer.state", ("THAWED", "FROZEN"))):
            try:
                with open(os.path.join(path, name), "r+") as file:
                    file.write(words[frozen])
            except OSError:
                continue
            return True
    return False


def is_frozen(container_id: str) -> bool:
    """Return whether all processes of a container stand still, some time after `freeze`."""
    for path in _paths(container_id):
        for name, line in (("cgroup.events", "frozen 1"), ("freezer.state", "FROZEN")):
            try:
                with open(os.path.join(path, name)) as file:
                    if line in file.read().splitlines():
                        return True
            except OSError:
                continue
    return False


def _paths(container_id: str) -> Iterator[str]:
    for directory in _directories():
        yield os.path.join(directory, _PARENT, container_id)


def _directories() -> list[str]:
    return [one.mountpoint for one in mounts() if one.fstype in ("cgroup", "cgroup2")]
