"""Whether a FUSE mount is served, and removing one that is not."""

import enum
import subprocess
import sys
from typing import Final

from fusevol.mounts import registry
from fusevol.mounts.mounting import unmount

_ANSWER_S: Final = 2.0
"""How long a mount may take to answer; one that is dead says so at once."""
_DEAD: Final = 3
_ASK: Final = f"""\
import errno, os, sys
try:
    os.statvfs(sys.argv[1])
except OSError as error:
    sys.exit({_DEAD} if error.errno in (errno.ENOTCONN, errno.ECONNABORTED) else 0)
"""


class Liveness(enum.Enum):
    """What a FUSE mount says when it is asked."""

    LIVE = "live"
    DEAD = "dead"
    """Nobody serves it any more."""
    NONE = "none"
    """It does not answer in time: its source hangs, or its worker was stopped."""


def answer(mountpoint: str) -> Liveness:
    """Ask the FUSE mount at `mountpoint`, for some seconds at most.

    A connection without a server answers at once with ENOTCONN (fs/fuse/dev.c). One whose server
    hangs does not answer, and the asking process cannot always be killed; so a child asks.
    """
    asking = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _ASK, mountpoint],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    try:
        return Liveness.DEAD if asking.wait(_ANSWER_S) == _DEAD else Liveness.LIVE
    except subprocess.TimeoutExpired:
        asking.kill()
        return Liveness.NONE


def remove_dead(mountpoint: str) -> None:
    """Remove a dead mount of ours."""
    unmount(mountpoint, lazily=True)
    registry.remove(mountpoint)
