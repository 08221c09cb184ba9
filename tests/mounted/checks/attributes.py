"""Attributes: times to the nanosecond, extended attributes."""

import ctypes
import errno
import os
import time
from pathlib import Path
from typing import Final

from fusevol.linux.libc import checked, libc
from tests.mounted.acting import User, acting_as
from tests.mounted.checks.table import check, fails_with, opened

_UTIME_NOW: Final = (1 << 30) - 1
_UTIME_OMIT: Final = (1 << 30) - 2
_AT_FDCWD: Final = -100
_SECOND: Final = 1_000_000_000
NOBODY_SPECIAL: Final = User(61003, 61003)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def utimensat(path: Path, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """As utimensat(2), UTIME_NOW and UTIME_OMIT included, which os.utime lacks."""
    times = (_Timespec * 2)(_Timespec(*atime), _Timespec(*mtime))
    checked(libc.utimensat(_AT_FDCWD, os.fsencode(path), times, 0))


@check
def times_are_nanoseconds(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    os.utime(path, ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
    status = path.stat()
    assert status.st_atime_ns == 1_234_567_890_123_456_789
    assert status.st_mtime_ns == 987_654_321_987_654_321
    os.utime(path, ns=(0, 1))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (0, 1)


@check
def times_before_1970(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    utimensat(path, (-3600, 1), (-1, 999_999_999))
    assert path.stat().st_atime_ns == -3600 * _SECOND + 1
    assert path.stat().st_mtime_ns == -1


@check
def times_after_2038(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    os.utime(path, ns=(5_000_000_000 * _SECOND + 7, 6_000_000_000 * _SECOND + 8))
    assert path.stat().st_atime_ns == 5_000_000_000 * _SECOND + 7
    assert path.stat().st_mtime_ns == 6_000_000_000 * _SECOND + 8


@check
def one_time_can_be_left_or_set_to_now(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    os.utime(path, ns=(100, 200))
    utimensat(path, (0, _UTIME_OMIT), (0, 300))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (100, 300)
    utimensat(path, (0, 400), (0, _UTIME_OMIT))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (400, 300)
    before = time.time_ns() - 20_000_000
    utimensat(path, (0, _UTIME_OMIT), (0, _UTIME_NOW))
    assert path.stat().st_atime_ns == 400
    assert before <= path.stat().st_mtime_ns <= time.time_ns()
    utimensat(path, (0, _UTIME_NOW), (0, 500))
    assert before <= path.stat().st_atime_ns <= time.time_ns()
    assert path.stat().st_mtime_ns == 500
    os.utime(path)
    assert path.stat().st_mtime_ns >= before


@check
def only_the_owner_sets_times_but_writers_touch(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    path.chmod(0o666)
    os.utime(path, ns=(1, 1))
    acting_as(NOBODY_SPECIAL, lambda: os.utime(path))
    assert path.stat().st_mtime_ns > 1
    with fails_with(errno.EPERM):
        acting_as(NOBODY_SPECIAL, lambda: os.utime(path, ns=(1, 1)))
    path.chmod(0o644)
    with fails_with(errno.EACCES):
        acting_as(NOBODY_SPECIAL, lambda: os.utime(path))


@check
def changes_move_the_times(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    os.utime(path, ns=(1, 1))
    changed = path.stat().st_ctime_ns
    time.sleep(0.02)
    path.write_bytes(b"x")
    assert path.stat().st_mtime_ns > 1
    assert path.stat().st_ctime_ns > changed
    os.utime(directory, ns=(1, 1))
    (directory / "new").touch()
    assert directory.stat().st_mtime_ns > 1
    changed = path.stat().st_ctime_ns
    time.sleep(0.02)
    path.chmod(0o600)
    assert path.stat().st_ctime_ns > changed
    changed = path.stat().st_ctime_ns
    time.sleep(0.02)
    path.rename(directory / "renamed")
    assert (directory / "renamed").stat().st_ctime_ns > changed


@check
def set_times_last(directory: Path) -> None:
    """As archivers do: write, set the times, close."""
    path = directory / "file"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"content")
        os.utime(fd, ns=(1000, 2000))
    assert path.stat().st_mtime_ns == 2000
    (directory / "sub").mkdir()
    os.utime(directory / "sub", ns=(3000, 4000))
    assert (directory / "sub").stat().st_mtime_ns == 4000


@check
def extended_attributes(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    os.setxattr(path, "user.text", b"value")
    os.setxattr(path, "user.empty", b"")
    os.setxattr(path, "user.binary", bytes(range(256)))
    os.setxattr(path, "trusted.secret", b"for root")
    assert os.getxattr(path, "user.text") == b"value"
    assert os.getxattr(path, "user.empty") == b""
    assert os.getxattr(path, "user.binary") == bytes(range(256))
    assert os.getxattr(path, "trusted.secret") == b"for root"
    wanted = {"user.text", "user.empty", "user.binary", "trusted.secret"}
    assert wanted <= set(os.listxattr(path))
    os.setxattr(path, "user.text", b"longer than it was before")
    assert os.getxattr(path, "user.text") == b"longer than it was before"
    os.removexattr(path, "user.text")
    assert "user.text" not in os.listxattr(path)
    with fails_with(errno.ENODATA):
        os.getxattr(path, "user.text")
    with fails_with(errno.ENODATA):
        os.removexattr(path, "user.text")
    (directory / "sub").mkdir()
    os.setxattr(directory / "sub", "user.on", b"a directory")
    assert os.getxattr(directory / "sub", "user.on") == b"a directory"


@check
def extended_attributes_create_and_replace(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    with fails_with(errno.ENODATA):
        os.setxattr(path, "user.x", b"1", os.XATTR_REPLACE)
    os.setxattr(path, "user.x", b"1", os.XATTR_CREATE)
    with fails_with(errno.EEXIST):
        os.setxattr(path, "user.x", b"2", os.XATTR_CREATE)
    assert os.getxattr(path, "user.x") == b"1"
    os.setxattr(path, "user.x", b"3", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.x") == b"3"
    with fails_with(errno.EINVAL):
        os.setxattr(path, "user.x", b"4", 64)


@check
def extended_attributes_refused(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    with fails_with(errno.E2BIG):
        os.setxattr(path, "user.x", bytes(65537))
    with fails_with(errno.ERANGE):
        os.setxattr(path, "user." + "n" * 251, b"x")
    with fails_with(errno.EOPNOTSUPP):
        os.setxattr(path, "nonsense.x", b"x")
    with fails_with(errno.EINVAL, errno.EOPNOTSUPP):
        os.setxattr(path, "user.", b"x")
    (directory / "link").symlink_to("file")
    with fails_with(errno.EPERM):
        os.setxattr(directory / "link", "user.x", b"x", follow_symlinks=False)
    os.setxattr(directory / "link", "trusted.x", b"of the link", follow_symlinks=False)
    assert os.getxattr(directory / "link", "trusted.x", follow_symlinks=False) == b"of the link"
    with fails_with(errno.ENODATA):
        os.getxattr(path, "trusted.x")


@check
def extended_attributes_into_small_buffers(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    os.setxattr(path, "user.long", b"x" * 1000)
    buffer = ctypes.create_string_buffer(10)
    raw = os.fsencode(path)
    with fails_with(errno.ERANGE):
        checked(libc.getxattr(raw, b"user.long", buffer, 10))
    with fails_with(errno.ERANGE):
        checked(libc.listxattr(raw, buffer, 3))
    assert libc.getxattr(raw, b"user.long", None, 0) == 1000
    assert libc.listxattr(raw, None, 0) >= len(b"user.long\0")


@check
def extended_attributes_are_for_some(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    path.chmod(0o644)
    os.setxattr(path, "user.note", b"readable")
    os.setxattr(path, "trusted.secret", b"for root")

    def use() -> None:
        assert os.getxattr(path, "user.note") == b"readable"
        with fails_with(errno.EACCES):
            os.setxattr(path, "user.note", b"x")
        with fails_with(errno.ENODATA):
            os.getxattr(path, "trusted.secret")
        with fails_with(errno.EPERM):
            os.setxattr(path, "trusted.secret", b"x")

    acting_as(NOBODY_SPECIAL, use)


@check
def extended_attributes_many_and_odd(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    names = {f"user.attribute-{number}" for number in range(60)} | {"user.\udcff\udcfe", "user.ü"}
    for name in names:
        os.setxattr(path, name, os.fsencode(name))
    assert names <= set(os.listxattr(path))
    assert all(os.getxattr(path, name) == os.fsencode(name) for name in names)


@check
def file_capabilities_go_when_the_file_is_written(directory: Path) -> None:
    path = directory / "program"
    path.write_bytes(b"x")
    path.chmod(0o777)
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(path, "security.capability", capability)
    assert os.getxattr(path, "security.capability") == capability

    def write() -> None:
        with opened(path, os.O_WRONLY) as fd:
            os.write(fd, b"y")

    acting_as(NOBODY_SPECIAL, write)
    with fails_with(errno.ENODATA):
        os.getxattr(path, "security.capability")
