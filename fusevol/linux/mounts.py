"""Making, copying, attaching and removing mounts.

mount(2), umount2(2), open_tree(2), move_mount(2), mount_setattr(2), fsopen(2).
"""

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
MS_NOSYMFOLLOW: Final = 256
MS_NOATIME: Final = 1024
MS_NODIRATIME: Final = 2048
MS_RELATIME: Final = 1 << 21
MS_STRICTATIME: Final = 1 << 24
MS_LAZYTIME: Final = 1 << 25
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MS_SHARED: Final = 1 << 20

MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

# The generic numbers: the same on every architecture whose table is younger than 2019, and on
# x86-64, arm64 and riscv64 in particular. alpha alone differs.
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_FSOPEN: Final = 430
_SYS_FSCONFIG: Final = 431
_SYS_FSMOUNT: Final = 432
_SYS_MOUNT_SETATTR: Final = 442
_OPEN_TREE_CLONE: Final = 1
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_FSOPEN_CLOEXEC: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_FSMOUNT_CLOEXEC: Final = 1
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_RECURSIVE: Final = 0x8000
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
_MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40

MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOATIME: Final = 0x10
MOUNT_ATTR_STRICTATIME: Final = 0x20
_MOUNT_ATTR_IDMAP: Final = 0x100000
MOUNT_ATTR_NODIRATIME: Final = 0x80
_MOUNT_ATTR_ATIME: Final = 0x70


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


def make_shared(mountpoint: str) -> None:
    """Let what is mounted on a mount later show in the copies made of it (mount(2), MS_SHARED)."""
    checked(libc.mount(None, os.fsencode(mountpoint), None, MS_SHARED, None), mountpoint)


def open_tree(path: str, dir_fd: int = _AT_FDCWD, recursive: bool = False) -> int:
    """Return an O_PATH descriptor of a copy of the mount at `path`, attached nowhere.

    Of what is mounted below `path` nothing is in the copy unless `recursive`. What is mounted there
    later never is (open_tree(2) with OPEN_TREE_CLONE, Linux 5.2). If `path` is not a mount point,
    the root of the copy is that directory or file.

    Args:
        path: relative to `dir_fd`; empty for what `dir_fd` itself refers to.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN, ENOSYS on older kernels, EINVAL if `dir_fd` belongs to
            a copy itself (allowed since Linux 6.15) or to another mount namespace.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_SYMLINK_NOFOLLOW
    flags |= _AT_RECURSIVE if recursive else 0
    flags |= 0 if path else _AT_EMPTY_PATH
    return checked(libc.syscall(_SYS_OPEN_TREE, dir_fd, os.fsencode(path), flags), path)


def mount_nowhere(fstype: str) -> int:
    """Mount a file system without a place; return a descriptor of its root.

    It is gone when the last descriptor in it is closed (fsmount(2), Linux 5.2).

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN, ENODEV if there is no such file system.
    """
    context = checked(libc.syscall(_SYS_FSOPEN, fstype.encode(), _FSOPEN_CLOEXEC), fstype)
    try:
        checked(libc.syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0), fstype)
        return checked(libc.syscall(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0), fstype)
    finally:
        os.close(context)


def set_attributes(
    fd: int, attributes: int, propagation: int = 0, recursive: bool = False, clear: int = 0
) -> None:
    """Set MOUNT_ATTR_* attributes, and the propagation, of the mount that `fd` is the root of.

    Args:
        clear: attributes to clear before.

    Raises:
        OSError: EINVAL if `fd` is not the root of a mount (mount_setattr(2), Linux 5.12).
    """
    change = _MountAttr(attr_set=attributes, attr_clr=clear, propagation=propagation)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    checked(
        libc.syscall(
            _SYS_MOUNT_SETATTR, fd, b"", flags, ctypes.byref(change), ctypes.sizeof(change)
        )
    )


def map_ids(fd: int, user_namespace: int) -> None:
    """Have owners on the mount `fd`, attached nowhere, be those that a user namespace maps them to.

    Raises:
        OSError: EINVAL if its file system does not support that (mount_setattr(2), Linux 5.12).
    """
    change = _MountAttr(attr_set=_MOUNT_ATTR_IDMAP, userns_fd=user_namespace)
    checked(
        libc.syscall(
            _SYS_MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, ctypes.byref(change),
            ctypes.sizeof(change),
        )
    )  # fmt: skip


def move_mount(fd: int, target_fd: int) -> None:
    """Attach the mount `fd`, a copy of `open_tree`, over what `target_fd` refers to.

    Both descriptors may be O_PATH; no path is looked up, so nothing can be swapped meanwhile
    (move_mount(2), Linux 5.2).

    Raises:
        OSError: EINVAL if `target_fd` is not in this process's mount namespace, ENOTDIR if one of
            the two is a directory and the other not, EPERM without CAP_SYS_ADMIN.
    """
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    checked(libc.syscall(_SYS_MOVE_MOUNT, fd, b"", target_fd, b"", flags))


def set_atime(fd: int, flags: int) -> None:
    """Have the mount that `fd` is the root of, and those on it, keep times of access otherwise.

    Args:
        flags: MS_STRICTATIME, MS_NOATIME, else MS_RELATIME; and MS_NODIRATIME (mount(2)).

    Raises:
        OSError: as of `set_attributes`.
    """
    if flags & MS_STRICTATIME:
        attributes = MOUNT_ATTR_STRICTATIME
    else:
        attributes = MOUNT_ATTR_NOATIME if flags & MS_NOATIME else 0
    attributes |= MOUNT_ATTR_NODIRATIME if flags & MS_NODIRATIME else 0
    set_attributes(fd, attributes, recursive=True, clear=_MOUNT_ATTR_ATIME)


def clone_tree(fd: int) -> int:
    """Return an O_PATH descriptor of a private copy of the mounts at and below what `fd` refers to.

    A file system that is served from the copy can never run into its own mount, wherever that is
    mounted later. The copy is made nodev, so that a device node inside it can never be opened by
    whoever holds the descriptor.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN, ENOSYS on older kernels.
    """
    if platform.machine() == "alpha":
        raise OSError(38, os.strerror(38))
    copy = open_tree("", fd, recursive=True)
    try:
        set_attributes(copy, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID, recursive=True)
    except OSError:
        os.close(copy)
        raise
    return copy
