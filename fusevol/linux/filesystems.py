"""What kind of file system a directory is on, as far as blocking is concerned."""

import ctypes
import enum
from typing import Final

from fusevol.linux.libc import checked, libc


class Storage(enum.Enum):
    """Where the data of a file system lives."""

    MEMORY = "memory"
    """No call waits for a device."""
    LOCAL = "local"
    """Reads of what is not cached and syncs wait for a device."""
    REMOTE = "remote"
    """Every call may wait for another machine or process."""


_MEMORY_TYPES: Final = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}
_REMOTE_TYPES: Final = {
    0x6969: "nfs",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x65735546: "fuse",
    0x01021997: "9p",
    0x00C36400: "ceph",
    0x5346414F: "afs",
    0x0BD00BD0: "lustre",
    0x01161970: "gfs2",
    0x7461636F: "ocfs2",
}
"""Magic numbers of linux/magic.h and statfs(2)."""


class _Statfs(ctypes.Structure):
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_char * 248))


def storage_of(fd: int) -> Storage:
    """Return the kind of storage behind `fd` (O_PATH too), from statfs(2)'s f_type."""
    status = _Statfs()
    checked(libc.fstatfs(fd, ctypes.byref(status)))
    magic = status.f_type & 0xFFFFFFFF
    if magic in _MEMORY_TYPES:
        return Storage.MEMORY
    return Storage.REMOTE if magic in _REMOTE_TYPES else Storage.LOCAL
