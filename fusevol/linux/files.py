"""Calls on files that the os module lacks or offers only by path."""

import contextlib
import ctypes
import errno
import os
from typing import Final

from fusevol.linux.libc import checked, libc, quick_libc

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_FALLOC_FL_KEEP_SIZE: Final = 1
_UTIME_OMIT: Final = (1 << 30) - 2
_NO_ID: Final = 0xFFFFFFFF
_SECOND_NS: Final = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_renameat2 = libc.renameat2
_renameat2.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
)
_fchownat = quick_libc.fchownat
_fchownat.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint32,
    ctypes.c_uint32,
    ctypes.c_int,
)
_utimensat = quick_libc.utimensat
_utimensat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)
_SYS_OPENAT2: Final = 437
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_RESOLVE_IN_ROOT: Final = 0x10
_TRIES: Final = 100
"""How often a look-up that met a rename is tried again (openat2(2), EAGAIN)."""


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_fallocate = libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def descriptor_path(fd: int) -> str:
    """Return a path that leads to the very object `fd` refers to, also for O_PATH descriptors."""
    return f"/proc/self/fd/{fd}"


def open_in_root(root_fd: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """Open `path` as a process would whose root directory is `root_fd`; closed on exec.

    Symbolic links and ".." never lead out of the root (openat2(2) with RESOLVE_IN_ROOT, Linux 5.6),
    and the magic links of /proc are refused with ELOOP.

    Raises:
        OSError: as of open(2); EAGAIN if something is being renamed all the time.
    """
    resolve = _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS
    return _openat2(root_fd, path, _OpenHow(flags | os.O_CLOEXEC, mode, resolve))


def open_beneath(dir_fd: int, path: str | bytes, flags: int) -> int:
    """Open `path`, which has to lead below `dir_fd` without any symbolic link; closed on exec.

    Raises:
        OSError: as of open(2); ELOOP for a symbolic link, EXDEV for "..", EAGAIN if something is
            being renamed all the time (openat2(2), Linux 5.6).
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)
    return _openat2(dir_fd, path, how)


def _openat2(dir_fd: int, path: str | bytes, how: _OpenHow) -> int:
    name = os.fsencode(path)
    tries = _TRIES
    while True:
        fd: int = libc.syscall(_SYS_OPENAT2, dir_fd, name, ctypes.byref(how), ctypes.sizeof(how))
        tries -= 1
        if fd >= 0 or not tries or ctypes.get_errno() != errno.EAGAIN:
            return checked(fd, path)


def renameat2(old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int) -> None:
    """Rename with RENAME_NOREPLACE, RENAME_EXCHANGE or RENAME_WHITEOUT (rename(2))."""
    checked(_renameat2(old_dir, old, new_dir, new, flags))


def fchown(fd: int, uid: int | None, gid: int | None) -> None:
    """Change owner and group of what `fd` (O_PATH too) refers to; None leaves one as it is."""
    owner = _NO_ID if uid is None else uid
    group = _NO_ID if gid is None else gid
    checked(_fchownat(fd, b"", owner, group, _AT_EMPTY_PATH))


def _timespec(ns: int | None) -> _Timespec:
    if ns is None:
        return _Timespec(0, _UTIME_OMIT)
    return _Timespec(*divmod(ns, _SECOND_NS))


def futimens(fd: int, atime_ns: int | None, mtime_ns: int | None) -> None:
    """Set times of what `fd` (O_PATH too) refers to, in nanoseconds; None leaves one as it is.

    The C library's futimens(3) rejects O_PATH descriptors, so this goes by way of /proc. A symbolic
    link's own times can be set as well: the magic link leads to the link itself.
    """
    times = (_Timespec * 2)(_timespec(atime_ns), _timespec(mtime_ns))
    checked(_utimensat(_AT_FDCWD, os.fsencode(descriptor_path(fd)), ctypes.byref(times), 0))


def replace(path: str, content: bytes, *, durable: bool = False) -> None:
    """Put a file of mode 0600 at `path`, in place of what stood there; nobody sees half of it.

    One writer at a time.

    Args:
        path: of the file; `path`.new is used meanwhile.
        content: of the file.
        durable: it is on the disk when this returns.

    Raises:
        OSError: that failed; what stood there still does.
    """
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(fd)
    os.rename(temporary, path)
    if durable:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def reserve(fd: int, offset: int, length: int) -> None:
    """Allocate room at `offset` without changing the file's size (fallocate(2), KEEP_SIZE)."""
    checked(_fallocate(fd, _FALLOC_FL_KEEP_SIZE, offset, length))


def remove_if_empty(messages: str) -> None:
    """Remove the file that standard error goes to if it is empty; another at its path is left."""
    ours = os.fstat(2)
    with contextlib.suppress(OSError):
        if ours.st_size == 0 and os.path.samestat(os.stat(messages), ours):
            os.unlink(messages)
