"""Pins: few whatever happens, and none that a request has taken is given up before it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusevol.inodes.objects import NO_FD, Directory, Inode
from fusevol.inodes.table import InodeTable
from fusevol.recovery.nodes import NodeEntries
from fusevol.recovery.open_handles import OpenEntries
from fusevol.volume.descriptors import Descriptors
from tests.unit.regions import new_region


@contextmanager
def _pins(root: Path, most: int) -> Iterator[tuple[InodeTable, Descriptors]]:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    with new_region() as region:
        pins: Descriptors

        def drop(inode: Inode) -> None:
            pins.release(inode)

        table = InodeTable(os.fstat(fd), NodeEntries(region), drop, lambda _: None)
        pins = Descriptors(table, fd, lambda: most, False, OpenEntries(region), [])
        yield table, pins
        pins.make_room(0)
    os.close(fd)


def _seen(table: InodeTable, parent: Inode, place: Path) -> Inode:
    assert isinstance(parent, Directory)
    inode = table.seen(parent, os.fsencode(place.name), place.stat())
    table.refer(inode)
    return inode


def _open_count() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_deep_directory_takes_few_descriptors_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path.joinpath(*["d"] * 300)
    deep.mkdir(parents=True)
    (deep / "file").write_text("content")
    with _pins(tmp_path, 16) as (table, pins):
        inode, place = table.root, tmp_path
        for _ in range(300):
            place = place / "d"
            inode = _seen(table, inode, place)
        file = _seen(table, inode, place / "file")
        before, most = _open_count(), 0
        opening = pins._open

        def counting(link: Inode) -> int:
            nonlocal most
            most = max(most, _open_count() - before)
            return opening(link)

        monkeypatch.setattr(pins, "_open", counting)
        assert os.fstat(pins.pin(file)).st_size == len("content")
        assert most < 16
        assert pins.status(inode).st_ino == inode.host_ino


def test_pins_of_one_request_last_until_it_ends(tmp_path: Path) -> None:
    with _pins(tmp_path, 1) as (table, pins):
        inodes = []
        for number in range(8):
            place = tmp_path / f"d{number}"
            place.mkdir()
            inodes.append(_seen(table, table.root, place))
        for inode in inodes[:3]:
            pins.pin(inode)
        # A request that pins three, the most there are, while no more than one is to be kept.
        one, other, replaced = inodes[3:6]
        fds = [pins.pin(one), pins.pin(other), os.open(tmp_path / "d5", os.O_PATH)]
        pins.adopt(replaced, fds[2])
        assert [inode.fd for inode in (one, other, replaced)] == fds
        assert [os.fstat(fd).st_ino for fd in fds] == [i.host_ino for i in (one, other, replaced)]
        pins.make_room(1)
        assert len(pins) <= 1
        assert sum(inode.fd != NO_FD for inode in inodes) <= 1


def test_what_has_no_name_any_more_stays_pinned(tmp_path: Path) -> None:
    with _pins(tmp_path, 1) as (table, pins):
        (tmp_path / "gone").mkdir()
        gone = _seen(table, table.root, tmp_path / "gone")
        pins.pin(gone)
        (tmp_path / "gone").rmdir()
        table.remove(gone)
        pins.make_room(0)
        assert os.fstat(gone.fd).st_nlink == 0
        table.forget(gone.ino, 1)
        assert len(pins) == 0
