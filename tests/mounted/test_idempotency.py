"""Effects of requests that come twice, on a real directory: each takes place once.

An entry is what a worker left that died: just begun, about to act, or done.
"""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusevol.inodes.objects import Inode, OpenFile
from fusevol.model import Caller
from fusevol.recovery.journal import CODES, DONE, INTENDED, RECORDED, Entry, Journal
from fusevol.volume import data, idempotency, lengths
from tests.mounted.mounting import workspace
from tests.unit.regions import new_region

_DATA = bytes(range(256)) * 16


class Place:
    """A directory on a disk, and the journal of a worker."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self.path = path
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
        self._journal = journal

    def entry(self, op: str = "mkdir") -> Entry:
        """An entry of a request that has just come."""
        return self._journal.begin(CODES[op], 0, 0, True)

    def set_phase(self, entry: Entry, phase: int) -> None:
        """Have a write be as far as that."""
        self._journal.words[entry.at] = CODES["write"] | phase

    def status(self, name: bytes) -> os.stat_result | None:
        try:
            return os.lstat(self.path / os.fsdecode(name))
        except FileNotFoundError:
            return None


@pytest.fixture
def place() -> Iterator[Place]:
    with workspace() as path, new_region() as region:
        place = Place(path, Journal(region))
        yield place
        os.close(place.fd)


def _write(path: Path, content: bytes = b"") -> Path:
    path.write_bytes(content)
    return path


# --- names that come to be ---

_MAKERS: dict[str, Callable[[Path], object]] = {
    "mkdir": os.mkdir,
    "mknod": os.mknod,
    "symlink": lambda path: os.symlink("nowhere", path),
    "fifo": os.mkfifo,
}


@pytest.mark.parametrize("make", _MAKERS.values(), ids=_MAKERS)
def test_what_was_made_is_not_made_again(place: Place, make: Callable[[Path], object]) -> None:
    entry = place.entry()
    assert not idempotency.made(entry, place.fd, b"new")
    assert entry.phase == INTENDED
    make(place.path / "new")
    assert idempotency.made(entry, place.fd, b"new")


def test_what_was_not_made_is_made(place: Place) -> None:
    entry = place.entry()
    assert not idempotency.made(entry, place.fd, b"new")
    for _ in range(3):
        assert not idempotency.made(entry, place.fd, b"new"), (
            "a worker dies before it acts, three times"
        )


def test_what_was_there_before_was_not_made(place: Place) -> None:
    """The client gets its EEXIST."""
    _write(place.path / "old")
    entry = place.entry()
    assert not idempotency.made(entry, place.fd, b"old")
    assert not idempotency.made(entry, place.fd, b"old")


def test_what_is_done_was_made_whatever_became_of_it(place: Place) -> None:
    entry = place.entry()
    idempotency.made(entry, place.fd, b"new")
    entry.done()
    assert idempotency.made(entry, place.fd, b"new")
    assert entry.phase == DONE


# --- names that go ---


def test_what_was_removed_is_not_removed_again(place: Place) -> None:
    file = _write(place.path / "file")
    entry = place.entry("unlink")
    status = place.status(b"file")
    assert status is not None
    assert not idempotency.took_away(entry, status)
    file.unlink()
    assert idempotency.took_away(entry, place.status(b"file"))
    assert entry.evidence == (status.st_ino, status.st_dev)


def test_what_another_made_under_the_name_meanwhile_stays(place: Place) -> None:
    file = _write(place.path / "file")
    entry = place.entry("unlink")
    idempotency.took_away(entry, place.status(b"file"))
    # Kept open, so that the new one cannot get its inode number.
    with file.open():
        file.unlink()
        _write(file)
        assert idempotency.took_away(entry, place.status(b"file"))


def test_what_was_not_removed_is_removed(place: Place) -> None:
    _write(place.path / "file")
    entry = place.entry("unlink")
    for _ in range(3):
        assert not idempotency.took_away(entry, place.status(b"file"))


def test_what_was_not_there_was_not_removed(place: Place) -> None:
    """The client gets its ENOENT."""
    entry = place.entry("unlink")
    assert not idempotency.took_away(entry, None)
    assert not idempotency.took_away(entry, None)
    status = place.path.stat()
    assert not idempotency.took_away(entry, status), "it has come to be since"


def test_what_is_done_was_removed(place: Place) -> None:
    entry = place.entry("unlink")
    idempotency.took_away(entry, place.path.stat())
    entry.done()
    assert idempotency.took_away(entry, place.path.stat())


# --- names that move ---


def _moved(place: Place, entry: Entry) -> bool:
    return idempotency.moved(entry, place.fd, b"a", place.fd, b"b")


@pytest.mark.parametrize("replaced", [False, True])
def test_what_was_moved_is_not_moved_again(place: Place, replaced: bool) -> None:
    file = _write(place.path / "a")
    if replaced:
        _write(place.path / "b")
    entry = place.entry("rename")
    assert not _moved(place, entry)
    file.rename(place.path / "b")
    assert _moved(place, entry)
    _write(place.path / "a")
    assert _moved(place, entry), "another one has the old name by now"


@pytest.mark.parametrize("replaced", [False, True])
def test_what_was_not_moved_is_moved(place: Place, replaced: bool) -> None:
    _write(place.path / "a")
    if replaced:
        _write(place.path / "b")
    entry = place.entry("rename")
    for _ in range(3):
        assert not _moved(place, entry)


def test_what_was_exchanged_is_not_exchanged_back(place: Place) -> None:
    a, b, aside = (place.path / name for name in ("a", "b", "aside"))
    _write(a)
    _write(b)
    entry = place.entry("rename")
    assert not _moved(place, entry)
    a.rename(aside)
    b.rename(a)
    aside.rename(b)
    assert _moved(place, entry)


def test_two_names_of_one_file_are_renamed_to_no_effect(place: Place) -> None:
    """As rename(2) has it; to do it again does no harm."""
    os.link(_write(place.path / "a"), place.path / "b")
    entry = place.entry("rename")
    assert not _moved(place, entry)
    assert not _moved(place, entry)


def test_what_was_not_there_was_not_moved(place: Place) -> None:
    entry = place.entry("rename")
    assert not _moved(place, entry)
    _write(place.path / "b")
    assert not _moved(place, entry)


def test_what_the_host_took_away_was_not_moved(place: Place) -> None:
    """The client gets its ENOENT."""
    file = _write(place.path / "a")
    entry = place.entry("rename")
    assert not _moved(place, entry)
    file.unlink()
    assert not _moved(place, entry)


def test_what_is_done_was_moved(place: Place) -> None:
    entry = place.entry("rename")
    _moved(place, entry)
    entry.done()
    assert _moved(place, entry)


# --- what is appended ---


@pytest.fixture
def log_fd(place: Place) -> Iterator[int]:
    """A file with something in it, as a client opens it that only appends."""
    fd = os.open(_write(place.path / "log", b"before"), os.O_WRONLY | os.O_APPEND)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("length", [0, 1, 100, len(_DATA)])
def test_only_the_rest_is_appended(place: Place, log_fd: int, length: int) -> None:
    entry = place.entry("write")
    assert idempotency.appended(entry, log_fd, _DATA) == 0
    assert entry.phase == INTENDED
    os.write(log_fd, _DATA[:length])
    assert idempotency.appended(entry, log_fd, _DATA) == length
    # Another worker dies after the rest.
    os.write(log_fd, _DATA[length:])
    assert idempotency.appended(entry, log_fd, _DATA) == len(_DATA)
    assert (place.path / "log").read_bytes() == b"before" + _DATA


def test_what_the_host_appended_is_not_taken_for_it(place: Place, log_fd: int) -> None:
    entry = place.entry("write")
    idempotency.appended(entry, log_fd, _DATA)
    with (place.path / "log").open("ab") as host:
        host.write(b"something else")
    assert idempotency.appended(entry, log_fd, _DATA) == 0


def test_what_the_host_appended_behind_it_is_no_part_of_it(place: Place, log_fd: int) -> None:
    entry = place.entry("write")
    idempotency.appended(entry, log_fd, _DATA)
    os.write(log_fd, _DATA)
    with (place.path / "log").open("ab") as host:
        host.write(b"something else")
    assert idempotency.appended(entry, log_fd, _DATA) == len(_DATA)


def test_a_file_that_became_shorter_has_nothing_of_it(place: Place, log_fd: int) -> None:
    entry = place.entry("write")
    idempotency.appended(entry, log_fd, _DATA)
    os.truncate(place.path / "log", 0)
    assert idempotency.appended(entry, log_fd, _DATA) == 0


def test_what_is_done_was_appended_whole(place: Place, log_fd: int) -> None:
    entry = place.entry("write")
    idempotency.appended(entry, log_fd, _DATA)
    entry.done()
    assert idempotency.appended(entry, log_fd, _DATA) == len(_DATA)


@pytest.mark.parametrize("phase", [DONE, RECORDED])
def test_an_append_that_took_place_is_left_as_it_is(place: Place, log_fd: int, phase: int) -> None:
    """Also one that went behind what the host had appended, and that is in the log by now."""
    status = os.fstat(log_fd)
    inode = Inode(status.st_ino, status.st_dev, status.st_ino, stat.S_IFREG, None, b"log")
    file = OpenFile(inode, log_fd, os.O_WRONLY | os.O_APPEND, Caller(1, None, None), 0, 0)
    entry = place.entry("write")
    inode.size = 3  # as the kernel was last told
    assert lengths.is_append(file, 3, len(_DATA))
    assert data.write(file, 3, _DATA, True, entry) == len(_DATA)
    inode.size += len(_DATA)
    place.set_phase(entry, phase)
    assert not lengths.is_append(file, 3, len(_DATA))
    assert data.write(file, 3, _DATA, False, entry) == len(_DATA)
    assert entry.phase == phase, "it would be recorded once more"
    assert (place.path / "log").read_bytes() == b"before" + _DATA


# --- attributes that go ---


def test_an_attribute_is_removed_once(place: Place) -> None:
    path = os.fspath(_write(place.path / "file"))
    os.setxattr(path, "user.one", b"1")
    entry = place.entry("removexattr")
    assert not idempotency.dropped_attribute(entry, path, b"user.one")
    assert not idempotency.dropped_attribute(entry, path, b"user.one")
    os.removexattr(path, "user.one")
    assert idempotency.dropped_attribute(entry, path, b"user.one")
    entry.done()
    os.setxattr(path, "user.one", b"1")
    assert idempotency.dropped_attribute(entry, path, b"user.one")


def test_an_attribute_that_was_not_there_was_not_removed(place: Place) -> None:
    """The client gets its ENODATA."""
    path = os.fspath(_write(place.path / "file"))
    entry = place.entry("removexattr")
    assert not idempotency.dropped_attribute(entry, path, b"user.one")
    assert not idempotency.dropped_attribute(entry, path, b"user.one")
