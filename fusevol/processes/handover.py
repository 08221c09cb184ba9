"""How one process becomes another that goes on with the mount.

By execve(2), which keeps the descriptors and their numbers.
"""

import contextlib
import os
import signal
import subprocess
import sys
from typing import Final, NoReturn

from fusevol.mounts.registry import KEEPER, RELOAD
from fusevol.recovery.nodes import NodeEntries
from fusevol.recovery.open_handles import OpenEntries
from fusevol.recovery.region import (
    ALIVE_FD,
    ALIVE_WRITE_FD,
    CONNECTION_FD,
    FUSE_FD,
    LOG_FD,
    LOG_STATE_FD,
    ROOT_FD,
    Region,
)

RESUME: Final = "--resume"
REVIVE: Final = "--revive"
TRY: Final = "--try"
NOT_UNDERSTOOD: Final = 76
"""Exit status of code that was tried, and does not understand the state of a mount."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, RELOAD)
"""What a keeper obeys."""
_CELLS: Final = (
    FUSE_FD, CONNECTION_FD, ROOT_FD, LOG_FD, LOG_STATE_FD, ALIVE_FD, ALIVE_WRITE_FD,
)  # fmt: skip
_CHECK_S: Final = 30.0


def descriptors(region: Region) -> set[int]:
    """Return the descriptors that the mount needs, in any process."""
    found = {region.fd, *NodeEntries(region).pins(), *OpenEntries(region).descriptors()}
    found.update(region.descriptor(cell) for cell in _CELLS)
    return found - {-1}


def become_keeper(region: Region, reason: str) -> NoReturn:
    """Execute the keeper again in this process, which shares its descriptors with nobody.

    Args:
        reason: what the log will say of it.

    Raises:
        OSError: Python cannot be executed.
    """
    for fd in descriptors(region):
        os.set_inheritable(fd, True)
    signal.setitimer(signal.ITIMER_REAL, 0)
    # What comes before the keeper has handlers waits; without, it would end the process.
    signal.pthread_sigmask(signal.SIG_SETMASK, SIGNALS)
    region.add_restart(reason)
    try:
        os.execv(sys.executable, [*command(), RESUME, str(region.fd)])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())


def revive(region: Region, fuse_fd: int) -> None:
    """Make the state of a mount whose processes have all died one that can be gone on with.

    Args:
        fuse_fd: /dev/fuse, which has another number now.
    """
    NodeEntries(region).lose_pins()
    OpenEntries(region).lose_descriptors()
    region.set_descriptor(FUSE_FD, fuse_fd)
    for cell in (CONNECTION_FD, ROOT_FD, LOG_FD, LOG_STATE_FD):
        region.set_descriptor(cell, -1)
    region.make_alive_pipe()
    region.add_restart("all processes were killed; open files were reopened")


def how_ended(status: int) -> str:
    """Return in words how a process failed; `status` is the returncode of subprocess."""
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
        return f"killed by signal {-status}"
    return f"failed with status {status}"


def command() -> list[str]:
    """Return the command that runs a keeper, without its arguments."""
    return [sys.executable, "-P", "-m", KEEPER]


def why_not(region: Region) -> str:
    """Return why the installed code cannot continue with this mount; "" if it can."""
    fd = region.fd
    try:
        done = subprocess.run(
            [*command(), TRY, str(fd)], pass_fds=(fd,), stdin=subprocess.DEVNULL,
            timeout=_CHECK_S, capture_output=True, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return f"the installed version cannot be run ({error})"
    if done.returncode == NOT_UNDERSTOOD:
        return "the installed version cannot take over running mounts; unmount and mount again"
    if done.returncode != 0:
        last = os.fsdecode(done.stderr).strip().rpartition("\n")[2]
        return f"the installed version cannot be loaded ({last})"
    return ""
