"""The file that records go to: whether it is where it should be, and room in it."""

import contextlib
import errno
import os
from typing import Self

from fusevol.linux.files import reserve
from fusevol.recording.opening import is_regular


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
        self.is_file = self._is_flexible = is_regular(fd)
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
        """Tell whether it was not renamed; its own lock would keep it from being opened again."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self.fd))
        except OSError:
            return False

    def is_hidden(self) -> bool:
        """Tell whether another file system was mounted above it."""
        return self._path_now() == self._place and not self.is_at_its_path()

    def is_nameless(self) -> bool:
        """Tell whether it was removed."""
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
