"""System calls that actors make, each by a name, on paths relative to a directory."""

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fusevol.linux.files import renameat2

Result = tuple[str, Any]
_ACL_VERSION: Final = 2


def access_list(group: int, group_bits: int, mask: int, other: int) -> bytes:
    """Return an access control list as the kernel takes it (acl(5)), with one named group."""
    entries = (
        (0x01, 6, 0xFFFFFFFF), (0x04, 4, 0xFFFFFFFF), (0x08, group_bits, group),
        (0x10, mask, 0xFFFFFFFF), (0x20, other, 0xFFFFFFFF),
    )  # fmt: skip
    packed = b"".join(struct.pack("<HHI", *entry) for entry in entries)
    return struct.pack("<I", _ACL_VERSION) + packed


def _open(path: str, flags: int, mode: int = 0o644) -> None:
    os.close(os.open(path, flags | os.O_NONBLOCK, mode))


def _create(path: str, mode: int, umask: int) -> None:
    old = os.umask(umask)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode))
    finally:
        os.umask(old)


def _mkdir(path: str, mode: int, umask: int) -> None:
    old = os.umask(umask)
    try:
        os.mkdir(path, mode)
    finally:
        os.umask(old)


def _write(path: str, content: bytes, flags: int) -> None:
    fd = os.open(path, os.O_NONBLOCK | flags)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def _read(path: str, flags: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | flags)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _ftruncate(path: str, size: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


def _fchmod_and_write(path: str, mode: int, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.fchmod(fd, mode)
        os.write(fd, content)
    finally:
        os.close(fd)


def _rename(old: str, new: str, flags: int) -> None:
    renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags)


def _status(path: str) -> tuple[int, ...]:
    found = os.lstat(path)
    size = -1 if stat.S_ISDIR(found.st_mode) else found.st_size
    return found.st_mode, found.st_uid, found.st_gid, found.st_nlink, size


CALLS: Final[dict[str, Callable[..., Any]]] = {
    "create": _create,
    "open": _open,
    "write": _write,
    "read": _read,
    "truncate": os.truncate,
    "ftruncate": _ftruncate,
    "fchmod and write": _fchmod_and_write,
    "mkdir": _mkdir,
    "rmdir": os.rmdir,
    "mknod": os.mknod,
    "symlink": os.symlink,
    "link": os.link,
    "unlink": os.unlink,
    "rename": _rename,
    "chmod": os.chmod,
    "chown": os.chown,
    "lchown": os.lchown,
    "utime": lambda path, times: os.utime(path, ns=times),
    "setxattr": os.setxattr,
    "getxattr": os.getxattr,
    "removexattr": os.removexattr,
    "listxattr": lambda path: sorted(os.listxattr(path)),
    "listdir": lambda path: sorted(os.listdir(path)),
    "status": _status,
    "access": os.access,
    "readlink": os.readlink,
}


def make(name: str, arguments: tuple[Any, ...]) -> Result:
    """Make a call; return ("ok", what it returns) or ("error", the errno's name)."""
    try:
        return "ok", CALLS[name](*arguments)
    except OSError as error:
        return "error", errno.errorcode.get(error.errno or 0, str(error.errno))
    except ctypes.ArgumentError as error:
        return "error", str(error)


def tree(top: Path) -> dict[str, object]:
    """Return what is below a directory: by path, all that a client can see and set but times."""
    found: dict[str, object] = {}
    for directory, names, files in os.walk(top):
        for name in ("", *names, *files):
            path = os.path.join(directory, name)
            found[os.path.relpath(path, top)] = (
                _status(path), os.lstat(path).st_rdev, _content(path),
                {one: os.getxattr(path, one, follow_symlinks=False)
                 for one in sorted(os.listxattr(path, follow_symlinks=False))},
            )  # fmt: skip
    return found


def _content(path: str) -> bytes | str:
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    return Path(path).read_bytes() if stat.S_ISREG(mode) else b""
