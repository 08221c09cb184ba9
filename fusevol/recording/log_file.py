"""The file that records go to: opened, found where it should be or not, and with room in it."""

import contextlib
import errno
import fcntl
import os
import stat
from typing import Self

from fusevol.errors import FusevolError, NotFoundError, NotPermittedError
from fusevol.linux.files import reserve
from fusevol.logs.lines import MAX_LINE_BYTES
from fusevol.record.bounds import LONGEST_LINE_BYTES


class LogFile:
    """An open file that one writer appends to.

    Attributes:
        fd: its descriptor; -1 if it could not be opened.
        is_file: it is a regular file, no pipe or device.
    """

    def __init__(self, path: str, fd: int) -> None:
        """Take a descriptor of what is, or was, at a path."""
        self.fd = fd
        self._path = path
        self.is_file = self._is_flexible = _is_regular(fd)
        self._place = self._path_now() if self.is_at_its_path() else ""

    @classmethod
    def missing(cls, path: str) -> Self:
        """Return what stands for a regular file that could not be opened."""
        file = cls.__new__(cls)
        file.fd, file._path, file._place = -1, path, ""
        file.is_file = file._is_flexible = True
        return file

    @property
    def way(self) -> str:
        """A path that leads to it, whatever has become of its name."""
        return f"/proc/self/fd/{self.fd}"

    def is_at_its_path(self) -> bool:
        """Return whether it was not renamed; its own lock would keep it from being opened again."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self.fd))
        except OSError:
            return False

    def is_hidden(self) -> bool:
        """Return whether another file system was mounted above it."""
        return self._path_now() == self._place and not self.is_at_its_path()

    def is_nameless(self) -> bool:
        """Return whether it was removed."""
        try:
            return os.fstat(self.fd).st_nlink == 0
        except OSError:
            return True

    def _path_now(self) -> str:
        with contextlib.suppress(OSError):
            return os.readlink(self.way)
        return ""

    def take_back(self, length: int) -> bool:
        """Remove what was written last; return False if it stays."""
        if not self._is_flexible:
            return False
        try:
            os.ftruncate(self.fd, os.fstat(self.fd).st_size - length)
        except OSError:
            return False
        return True

    def reserve(self, length: int) -> None:
        """Make room behind its end, where that can be made.

        Raises:
            OSError: EIO if there is none.
        """
        if not self._is_flexible:
            return
        try:
            reserve(self.fd, os.fstat(self.fd).st_size, length)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise OSError(errno.EIO, "access log cannot be written") from error
            self._is_flexible = False


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
        if _is_regular(fd):
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


def _is_regular(fd: int) -> bool:
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
