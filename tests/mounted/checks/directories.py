"""Directories: reading while they change, positions, large ones, statvfs."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusevol.linux.libc import libc
from tests.mounted.checks.table import check

_opendir = libc.opendir
_opendir.restype = ctypes.c_void_p
_opendir.argtypes = (ctypes.c_char_p,)
_readdir = libc.readdir
_readdir.restype = ctypes.c_void_p
_readdir.argtypes = (ctypes.c_void_p,)
_telldir = libc.telldir
_telldir.restype = ctypes.c_long
_telldir.argtypes = (ctypes.c_void_p,)
_seekdir = libc.seekdir
_seekdir.restype = None
_seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
_rewinddir = libc.rewinddir
_rewinddir.restype = None
_rewinddir.argtypes = (ctypes.c_void_p,)
_closedir = libc.closedir
_closedir.argtypes = (ctypes.c_void_p,)

_D_NAME = 19


class Stream:
    """A directory stream of the C library, which os.scandir hides."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def next(self) -> str | None:
        entry = _readdir(self._handle)
        return None if entry is None else os.fsdecode(ctypes.string_at(entry + _D_NAME))

    def rest(self) -> list[str]:
        return list(iter(self.next, None))

    def tell(self) -> int:
        return int(_telldir(self._handle))

    def seek(self, position: int) -> None:
        _seekdir(self._handle, position)

    def rewind(self) -> None:
        _rewinddir(self._handle)


@contextmanager
def stream(directory: Path) -> Iterator[Stream]:
    handle = _opendir(os.fsencode(directory))
    assert handle, f"opendir of {directory} failed"
    try:
        yield Stream(handle)
    finally:
        _closedir(handle)


def fill(directory: Path, count: int) -> set[str]:
    names = {f"entry-{number:06}" for number in range(count)}
    for name in names:
        os.close(os.open(directory / name, os.O_CREAT | os.O_WRONLY))
    return names


@check
def dot_and_dotdot(directory: Path) -> None:
    below = directory / "sub"
    below.mkdir()
    with stream(below) as entries:
        assert sorted(entries.rest()) == [".", ".."]
    assert os.stat(f"{below}/.").st_ino == below.stat().st_ino
    assert os.stat(f"{below}/..").st_ino == directory.stat().st_ino
    with stream(below) as entries:
        entries.next()
        assert entries.tell() != 0


@check
def entry_types_and_inode_numbers(directory: Path) -> None:
    (directory / "file").touch()
    (directory / "sub").mkdir()
    (directory / "link").symlink_to("x")
    os.mkfifo(directory / "fifo")
    with os.scandir(directory) as entries:
        for entry in entries:
            assert entry.inode() == (directory / entry.name).lstat().st_ino
            assert entry.is_dir(follow_symlinks=False) == (entry.name == "sub")
            assert entry.is_file(follow_symlinks=False) == (entry.name == "file")
            assert entry.is_symlink() == (entry.name == "link")


@check
def positions_lead_back(directory: Path) -> None:
    fill(directory, 400)
    with stream(directory) as entries:
        seen: list[str] = []
        positions = [entries.tell()]
        while (name := entries.next()) is not None:
            seen.append(name)
            positions.append(entries.tell())
        assert len(seen) == 402
        for index in (399, 10, 200, 0, 401):
            entries.seek(positions[index])
            assert entries.next() == seen[index]
            assert entries.tell() == positions[index + 1]
        entries.seek(positions[350])
        assert entries.rest() == seen[350:]


@check
def rewinding_shows_what_is_there_now(directory: Path) -> None:
    names = fill(directory, 50)
    with stream(directory) as entries:
        assert set(entries.rest()) == names | {".", ".."}
        (directory / "later").touch()
        (directory / "entry-000007").unlink()
        entries.rewind()
        assert set(entries.rest()) == (names | {".", "..", "later"}) - {"entry-000007"}


@check
def reading_while_entries_come_and_go(directory: Path) -> None:
    """What stays is seen exactly once, whatever happens beside it (readdir(3))."""
    names = fill(directory, 3000)
    victims = {name for name in names if name.endswith(("3", "7"))}
    with stream(directory) as entries:
        seen = [entries.next() for _ in range(300)]
        for number, name in enumerate(sorted(victims)):
            (directory / name).unlink()
            (directory / f"added-{number}").touch()
        seen += entries.rest()
    stayed = [name for name in seen if name in names - victims]
    assert len(stayed) == len(set(stayed))
    assert set(stayed) == names - victims
    assert len(seen) == len(set(seen))


@check
def removing_while_reading_empties_a_directory(directory: Path) -> None:
    fill(directory, 2500)
    with os.scandir(directory) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(directory) == []


@check
def twenty_thousand_entries(directory: Path) -> None:
    names = fill(directory, 20_000)
    listed = os.listdir(directory)
    assert len(listed) == 20_000
    assert set(listed) == names
    assert {(directory / name).stat().st_size for name in listed[::20]} == {0}


@check
def two_streams_are_independent(directory: Path) -> None:
    names = fill(directory, 700)
    with stream(directory) as one, stream(directory) as other:
        for _ in range(100):
            one.next()
        assert set(other.rest()) == names | {".", ".."}
        assert len(one.rest()) == 602


@check
def link_counts_of_directories(directory: Path) -> None:
    empty = directory.stat().st_nlink
    (directory / "a").mkdir()
    (directory / "b").mkdir()
    assert directory.stat().st_nlink == empty + 2
    assert (directory / "a").stat().st_nlink == 2
    (directory / "b").rename(directory / "a" / "b")
    assert directory.stat().st_nlink == empty + 1
    assert (directory / "a").stat().st_nlink == 3
    (directory / "a" / "b").rmdir()
    assert (directory / "a").stat().st_nlink == 2


@check
def file_system_figures(directory: Path) -> None:
    figures = os.statvfs(directory)
    assert figures.f_namemax == 255
    assert 0 < figures.f_bavail <= figures.f_bfree <= figures.f_blocks
    assert 0 < figures.f_ffree <= figures.f_files
    with_file = directory / "file"
    with_file.write_bytes(os.urandom(20 << 20))
    with with_file.open("rb") as file:
        os.fsync(file.fileno())
        inside = os.fstatvfs(file.fileno())
    assert inside.f_blocks * inside.f_frsize == figures.f_blocks * figures.f_frsize
