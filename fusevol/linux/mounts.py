"""Making and removing mounts: mount(2), umount2(2), open_tree(2), mount_setattr(2)."""

import ctypes
import os
import platform
from typing import Final

from fusevol.linux.libc import checked, libc

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_SYNCHRONOUS: Final = 16
MS_DIRSYNC: Final = 128
MS_NOATIME: Final = 1024
MS_NODIRATIME: Final = 2048
MS_RELATIME: Final = 1 << 21
MS_STRICTATIME: Final = 1 << 24

MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

# The generic numbers: the same on every architecture whose table is younger than 2019, and on
# x86-64, arm64 and riscv64 in particular. alpha alone differs.
_SYS_OPEN_TREE: Final = 428
_SYS_MOUNT_SETATTR: Final = 442
_OPEN_TREE_CLONE: Final = 1
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_MOUNT_ATTR_NOSUID: Final = 0x2
_MOUNT_ATTR_NODEV: Final = 0x4


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    """mount(2). Raises OSError with `target` as file name."""
    result = libc.mount(
        os.fsencode(source), os.fsencode(target), fstype.encode(), flags, os.fsencode(data)
    )
    checked(result, target)


def umount(target: str, flags: int = UMOUNT_NOFOLLOW) -> None:
    """umount2(2). Raises OSError with `target` as file name."""
    checked(libc.umount2(os.fsencode(target), flags), target)


def clone_tree(path: str) -> int:
    """Return an O_PATH descriptor of a private copy of the mounts at and below `path`.

    The copy is attached nowhere (open_tree(2), Linux 5.2). What is mounted over `path` or below it
    later does not show in it, so a file system that is served from the copy can never run into
    its own mount. It is made nodev, so that a device node inside it can never be opened by
    whoever holds the descriptor (mount_setattr(2), Linux 5.12).

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN, ENOSYS on older kernels.
    """
    if platform.machine() == "alpha":
        raise OSError(38, os.strerror(38))
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    fd = checked(libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags), path)
    attributes = _MountAttr(attr_set=_MOUNT_ATTR_NODEV | _MOUNT_ATTR_NOSUID)
    try:
        checked(
            libc.syscall(
                _SYS_MOUNT_SETATTR,
                fd,
                b"",
                _AT_EMPTY_PATH | _AT_RECURSIVE,
                ctypes.byref(attributes),
                ctypes.sizeof(attributes),
            ),
            path,
        )
    except OSError:
        os.close(fd)
        raise
    return fd
