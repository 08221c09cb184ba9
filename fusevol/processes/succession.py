"""The next keeper of a mount, when the process that kept it has ended."""

import math
import time
from typing import Final

from fusevol.linux.process import Process
from fusevol.mounts import registry
from fusevol.processes.fdstore import FdStore

HEIR_S: Final = 10.0
"""How long it may take until a worker has become the keeper."""
POLL_S: Final = 0.02
"""How often to look whether it has."""

KILLED: Final = "keeper and worker were killed"
"""Why a mount is gone that nobody unmounted."""


def keeper_after(mountpoint: str, ended: int) -> Process | None:
    """Return the keeper of a mount that has succeeded keeper `ended`; None while there is none."""
    served = registry.get(mountpoint)
    if served is None or served.pid == ended or not served.keeper.runs():
        return None
    return served.keeper


def is_kept(mountpoint: str, fdstore: FdStore | None) -> bool:
    """Return whether anybody lives who keeps a mount or is about to.

    Without spare descriptors the registry decides, which may name an earlier worker.
    """
    served = registry.get(mountpoint)
    if served is None:
        return False
    return served.server.runs() if fdstore is None else fdstore.is_kept()


def await_heir(mountpoint: str, ended: int, fdstore: FdStore | None) -> Process | None:
    """Return the keeper that succeeds keeper `ended`; None if nobody does."""
    limit = math.inf if fdstore is not None else time.monotonic() + HEIR_S
    while not (keeper := keeper_after(mountpoint, ended)) and time.monotonic() < limit:
        if not is_kept(mountpoint, fdstore):
            # It may have entered itself between the two looks, and the mount have ended since.
            return keeper_after(mountpoint, ended)
        time.sleep(POLL_S)
    return keeper
