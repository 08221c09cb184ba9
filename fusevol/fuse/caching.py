"""What the kernel may cache of names, attributes and data, by record level and opener."""

import os
import stat
from os import stat_result
from typing import Final

from pyfuse3 import EntryAttributes, FileInfo

from fusevol.fuse import convert
from fusevol.inodes.objects import ST_DEV, Inode, OpenFile
from fusevol.model import RecordLevel
from fusevol.protocol.init import Flag
from fusevol.volume import data

_CACHED_S: Final = 1.0
"""How long the kernel may answer for names and attributes itself at level `data`, in seconds."""
_TICK_S: Final = 1e-9
"""As short as can be: the kernel counts in ticks, and answers until the one after the next begins,
4 to 8 ms at 250 Hz (fuse_time_to_jiffies, fs/fuse/dir.c)."""
_SET_ID: Final = 0o6000
_TYPE: Final = 0o170000
"""Of st_mode (inode(7))."""


def _appends(file: OpenFile) -> bool:
    return bool(file.flags & os.O_APPEND) and file.writable


class Caching:
    """Decides for one mount.

    Attributes:
        timeout: how long names and attributes are valid, in seconds.
    """

    def __init__(self, level: RecordLevel, *, strict: bool) -> None:
        """Start without what INIT flags allow.

        Args:
            level: what is recorded.
            strict: at level `all` the kernel asks for attributes of directories each time, too.
        """
        self._direct_io = level is RecordLevel.ALL
        self._direct_writes = self._direct_io
        self.timeout = 0.0 if level is RecordLevel.ALL else _CACHED_S
        self._directory_timeout = self.timeout or (0.0 if strict else _TICK_S)

    def use(self, flags: Flag) -> None:
        """Take note of the INIT flags that are in force."""
        if flags & Flag.DIRECT_IO_ALLOW_MMAP:
            # Who only writes has no use for cached pages, and the kernel asks for a file
            # capability before each write to them. It keeps maps by others in step.
            self._direct_writes = True

    def is_direct(self, file: OpenFile) -> bool:
        """Return whether reads and writes through `file` pass the page cache by.

        Direct I/O by io_uring at the current position does not move it (fuse_direct_IO, Linux
        6.18): all reads return the same, all writes go over one another. What a ring has opened is
        for a ring to use, so it goes through the page cache.
        """
        direct = self._direct_io or (
            self._direct_writes
            # The page cache sends a write that begins within a page in two, and what others
            # append or truncate comes in between.
            and (file.flags & os.O_ACCMODE == os.O_WRONLY or _appends(file))
        )
        return direct and not file.by_ring

    def opened(self, file: OpenFile, status: stat_result) -> FileInfo:
        """Return the reply to the open of `file`, which has `status` then."""
        if self.is_direct(file):
            return FileInfo(fh=file.fh, direct_io=True, keep_cache=True)
        right = not self._direct_io and data.pages_are_right(file.inode, status)
        if file.flags & os.O_NOATIME:
            # Pages that it reads leave the time of access as it is; who comes next has to set it.
            file.inode.stamp = None
        return FileInfo(fh=file.fh, direct_io=False, keep_cache=right)

    def created(self, file: OpenFile) -> FileInfo:
        """Return the reply to the creation of `file`."""
        return FileInfo(fh=file.fh, direct_io=self.is_direct(file), keep_cache=False)

    def attributes(self, inode: Inode | None, ino: int, status: stat_result) -> EntryAttributes:
        """Return a reply that shows `ino`; those attributes may stay that the kernel keeps right.

        Args:
            inode: what has `status`; None for what the kernel takes no reference to.
        """
        entry = convert.attributes(ino, status, self.timeout)
        mode = status.st_mode
        if mode & _TYPE == stat.S_IFDIR:
            # Before each look-up in it, the kernel wants to know who may search it.
            entry.attr_timeout = self._directory_timeout
        elif not self.timeout:
            return entry
        elif mode & _SET_ID and stat.S_ISREG(mode):
            # A write clears the bits on the host, and the kernel takes its own copy for right.
            entry.attr_timeout = 0.0
        if inode is not None and inode.dev > ST_DEV:
            # stat(2) shows another number than that which comes with the name.
            entry.attr_timeout = 0.0
        return entry
