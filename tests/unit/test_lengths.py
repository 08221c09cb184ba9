"""Which length the kernel goes by, in the orders of events that were seen on a real one."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from fusevol.inodes.objects import NO_SIZE, OpenFile
from fusevol.model import Caller
from fusevol.recovery.open_handles import SIZE
from fusevol.recovery.region import Region
from fusevol.volume import lengths
from fusevol.volume.volume import Volume
from tests.unit.regions import new_region

_LINE: Final = 9
_PAGE: Final = mmap.PAGESIZE
_APPEND: Final = os.O_WRONLY | os.O_APPEND


class _Log(NamedTuple):
    """A file that somebody has open to append; the kernel was told that it has `told` bytes."""

    volume: Volume
    file: OpenFile
    region: Region

    def told(self, size: int) -> None:
        lengths.told(self.volume, self.file.inode, size)

    def emptied(self) -> None:
        lengths.emptied(self.volume, self.file.inode)

    def appends(self, begin: int, length: int = _LINE) -> bool:
        """A write comes in; return whether it was taken for an append."""
        appends = lengths.is_append(self.file, begin, length)
        if appends:
            lengths.appended(self.volume, self.file, begin, begin + length)
        else:
            lengths.written(self.volume, self.file.inode, begin + length)
        return appends

    def kept_size(self) -> int:
        """What a successor would find."""
        return int(self.region.words[self.file.at + SIZE])


@pytest.fixture
def log(tmp_path: Path) -> Iterator[_Log]:
    path = tmp_path / "log"
    path.touch()
    with new_region() as region:
        volume = Volume(os.open(tmp_path, os.O_PATH), False, 8, 64, region)
        inode = volume.inodes.seen(volume.directory(1), b"log", path.stat())
        file = OpenFile(inode, os.open(path, _APPEND), _APPEND, Caller(1, None, None), 0, 0)
        volume.add_file(file)
        yield _Log(volume, file, region)
        os.close(file.fd)
        os.close(volume.root_fd)


def test_an_append_begins_at_the_length_that_the_kernel_knows(log: _Log) -> None:
    log.told(100)
    assert log.appends(100)
    assert log.appends(100 + _LINE)
    assert not log.appends(50), "O_APPEND was switched off"
    assert log.kept_size() == 100 + 2 * _LINE


def test_the_first_append_after_a_restart(log: _Log) -> None:
    assert log.kept_size() == NO_SIZE
    assert log.appends(4711)
    assert not log.appends(4711)
    assert log.appends(4711 + _LINE)


def test_emptied_at_once(log: _Log) -> None:
    log.told(100)
    log.emptied()
    assert log.appends(0)
    assert log.appends(_LINE)


def test_emptied_later_and_once_more(log: _Log) -> None:
    """Others append before the opener goes on, and between the two times it empties the file."""
    log.told(100)
    log.emptied()
    assert log.appends(100)
    assert log.appends(100 + _LINE)
    assert log.appends(0)
    assert log.appends(_LINE)
    assert log.appends(0)
    assert log.appends(_LINE)
    assert not log.appends(0), "the opener has gone on by now"


def test_attributes_that_were_passed_over(log: _Log) -> None:
    log.told(_LINE)
    log.told(45)
    log.told(45)
    assert log.appends(_LINE)


def test_attributes_that_came_during_an_append(log: _Log) -> None:
    log.told(45)
    log.emptied()
    assert log.appends(0)
    log.told(45)
    assert log.appends(_LINE)
    assert log.appends(45)


def test_a_write_elsewhere_after_it_was_emptied(log: _Log) -> None:
    log.told(100)
    log.emptied()
    lengths.written(log.volume, log.file.inode, _LINE)
    assert log.appends(_LINE)


def test_pages_go_to_their_place(log: _Log) -> None:
    log.told(_PAGE)
    log.told(3 * _PAGE)
    assert not log.appends(_PAGE, 2 * _PAGE)
    assert not log.appends(0, _PAGE)
    log.told(3 * _PAGE + 5)
    assert not log.appends(3 * _PAGE, 5), "the last page, up to the end"


def test_pages_of_what_was_opened_empty(log: _Log) -> None:
    opened = log.file
    opened.flags |= os.O_TRUNC
    log.told(100)
    log.emptied()
    assert log.appends(0)
    assert not log.appends(0), "who writes has gone on, so that it is not emptied again"


def test_closed_by_who_emptied_it(log: _Log) -> None:
    log.told(100)
    log.emptied()
    lengths.closed(log.volume, log.file)
    assert log.appends(0)
    assert not log.appends(0)


def test_truncation_leaves_no_doubt(log: _Log) -> None:
    log.told(100)
    log.told(200)
    lengths.truncated(log.volume, log.file.inode, 50)
    assert log.kept_size() == 50
    assert not log.appends(100)


def test_doubt_is_bounded(log: _Log) -> None:
    for size in range(1000, 2000):
        log.told(size)
    assert len(log.file.inode.other_sizes) <= 8
    assert log.kept_size() == NO_SIZE
