"""Opening the file of a log to write to it, and saying why that fails."""

import errno
import fcntl
import os
import stat

from fusevol.errors import FusevolError, NotFoundError, NotPermittedError
from fusevol.logs.lines import MAX_LINE_BYTES
from fusevol.record.bounds import LONGEST_LINE_BYTES


def open_to_write(path: str) -> int:
    """Open the log at a path for its only writer, behind a line that is whole.

    A new file is made with mode 0600. A line that a crash or a full disk left half-written is
    ended.

    Raises:
        OSError: that fails; EWOULDBLOCK if another mount writes to it.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    fd = os.open(path, flags, 0o600)
    try:
        os.set_blocking(fd, True)
        if is_regular(fd):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _end_torn_line(fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def why_not(path: str, number: int) -> FusevolError:
    """Return what to tell the user of a log that could not be opened, for this errno."""
    what = f"cannot open access log {path}"
    if number == errno.ENOENT:
        return NotFoundError(f"{what}: its directory does not exist; create it")
    if number == errno.EACCES:
        return NotPermittedError(f"{what}: permission denied; choose another --log")
    if number == errno.EWOULDBLOCK:
        return FusevolError(
            f"access log {path} is in use by another mount; give each its own --log"
        )
    return FusevolError(f"{what}: {os.strerror(number)}")


def is_regular(fd: int) -> bool:
    """Tell whether an open file is a regular one, no pipe or device."""
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _end_torn_line(fd: int) -> None:
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        os.write(fd, b"\n")


def cut_torn_line(fd: int) -> None:
    """Remove what a writer that was killed wrote of its last record: that is written again.

    Raises:
        OSError: that fails.
    """
    size = os.fstat(fd).st_size
    # The last line of a log that was begun before records had a bound may be a longer one.
    for length in (LONGEST_LINE_BYTES, MAX_LINE_BYTES):
        tail = os.pread(fd, length, max(0, size - length))
        torn = len(tail) - tail.rfind(b"\n") - 1
        if torn < len(tail) or size == len(tail):
            os.ftruncate(fd, size - torn)
            return
