"""The inode table and the paths it gives: pure state, so tried without a file system."""

import os
import stat
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusevol.inodes.objects import Directory, Inode
from fusevol.inodes.table import FIRST_OWN_INO, ROOT_INO, InodeTable
from fusevol.recovery.nodes import NodeEntries
from fusevol.recovery.region import Region
from fusevol.volume.paths import Paths
from tests.unit.regions import new_region

_DEV, _OTHER_DEV = 7, 8


def _status(ino: int, kind: int = stat.S_IFREG, dev: int = _DEV) -> os.stat_result:
    return os.stat_result((kind | 0o644, ino, dev, 1, 0, 0, 0, 0, 0, 0))


class _Known(InodeTable):
    """A table over a root directory that remembers what was dropped."""

    def __init__(self, region: Region) -> None:
        self.dropped: list[Inode] = []
        super().__init__(
            _status(2, stat.S_IFDIR), NodeEntries(region), self.dropped.append, lambda _inode: None
        )

    def look_up(
        self, ino: int, name: bytes, parent: Inode | None = None, kind: int = stat.S_IFREG
    ) -> Inode:
        directory = parent or self.root
        assert isinstance(directory, Directory)
        inode = self.seen(directory, name, _status(ino, kind))
        self.refer(inode)
        return inode

    def look_up_directory(self, ino: int, name: bytes, parent: Inode | None = None) -> Inode:
        return self.look_up(ino, name, parent, stat.S_IFDIR)


@pytest.fixture
def region() -> Iterator[Region]:
    with new_region() as region:
        yield region


@pytest.fixture
def table(region: Region) -> _Known:
    return _Known(region)


def test_node_ids_are_the_numbers_of_the_host(table: _Known) -> None:
    assert table.root.ino == ROOT_INO
    assert table.look_up(4711, b"a").ino == 4711


def test_hard_links_are_one_inode(table: _Known) -> None:
    assert table.look_up(10, b"a") is table.look_up(10, b"b")
    assert Paths(table).of(table[10]) == "/b"


def test_the_number_of_the_root_in_the_kernel_is_given_to_nothing_else(table: _Known) -> None:
    assert table.look_up(ROOT_INO, b"one").ino == FIRST_OWN_INO


def test_other_file_systems_get_numbers_of_their_own(table: _Known) -> None:
    here = table.look_up(10, b"here")
    assert isinstance(table.root, Directory)
    there = table.seen(table.root, b"there", _status(10, dev=_OTHER_DEV))
    assert here is not there
    assert there.ino == FIRST_OWN_INO
    assert table.find(_status(10, dev=_OTHER_DEV)) is there


def test_the_same_file_system_at_another_place_is_told_from_the_first(region: Region) -> None:
    table = _Known(region)
    assert isinstance(table.root, Directory)
    place = 5 << 32 | _DEV
    here = table.look_up_directory(10, b"here")
    there = table.seen(table.root, b"there", _status(10, stat.S_IFDIR), place)
    again = table.seen(table.root, b"again", _status(2, stat.S_IFDIR), place)
    assert isinstance(there, Directory)
    assert len({here.ino, there.ino, again.ino, ROOT_INO}) == 4
    assert there.beside(_OTHER_DEV) == 5 << 32 | _OTHER_DEV
    assert table.find(_status(10, stat.S_IFDIR)) is here
    assert table.find(_status(10, stat.S_IFDIR), place) is there
    assert [table.shown_ino(inode) for inode in (here, there, again, table.root)] == [10, 10, 2, 2]
    for inode in (there, again):
        table.refer(inode)
    successor = _Known(region)
    assert successor.find(_status(10, stat.S_IFDIR), place) is successor[there.ino]
    assert successor[again.ino].dev == place


def test_a_number_that_the_kernel_still_uses_is_not_given_twice(table: _Known) -> None:
    file = table.look_up(10, b"a")
    link = table.look_up(10, b"a", kind=stat.S_IFLNK)
    assert link is not file
    assert (file.ino, link.ino) == (10, FIRST_OWN_INO)
    assert table.find(_status(10)) is None
    table.forget(10, 1)
    assert table.find(_status(10, stat.S_IFLNK)) is link


def test_an_inode_is_dropped_with_its_last_reference(table: _Known) -> None:
    file = table.look_up(10, b"a")
    table.look_up(10, b"a")
    table.forget(10, 1)
    assert table.dropped == []
    table.forget(10, 1)
    assert table.dropped == [file]
    with pytest.raises(KeyError):
        table[10]


def test_a_directory_stays_known_as_long_as_something_in_it_does(table: _Known) -> None:
    directory = table.look_up_directory(10, b"d")
    file = table.look_up(11, b"f", directory)
    table.forget(10, 1)
    assert Paths(table).of(file) == "/d/f"
    table.forget(11, 1)
    assert table.dropped == [file, directory]
    assert len(table) == 1


def test_what_was_never_known_is_forgotten_without_an_error(table: _Known) -> None:
    table.forget(99, 1)


def test_paths_follow_a_moved_directory(table: _Known) -> None:
    paths = Paths(table)
    outer = table.look_up_directory(10, b"outer")
    inner = table.look_up_directory(11, b"inner", outer)
    file = table.look_up(12, b"file", inner)
    assert paths.of(file) == "/outer/inner/file"
    assert isinstance(table.root, Directory)
    table.move(inner, table.root, b"moved")
    assert paths.of(file) == "/moved/file"
    assert paths.of(outer) == "/outer"
    assert table.root.children == 2


def test_directories_that_change_places_on_the_host_end_at_the_root(table: _Known) -> None:
    outer = table.look_up_directory(10, b"outer")
    inner = table.look_up_directory(11, b"inner", outer)
    assert isinstance(table.root, Directory)
    assert isinstance(outer, Directory)
    assert isinstance(inner, Directory)
    table.move(outer, inner, b"outer")
    assert Paths(table).of(outer) == "/inner/outer"
    assert (table.root.children, inner.children, outer.children) == (1, 1, 0)
    # Each is dropped when nothing is in it any more, no sooner and no later.
    table.forget(11, 1)
    assert table.dropped == []
    table.forget(10, 1)
    assert table.dropped == [outer, inner]
    assert table.root.children == 0


def test_late_references_of_a_number_are_not_taken_from_who_has_it_now(table: _Known) -> None:
    table.look_up(10, b"a")
    table.look_up(10, b"a")
    table.disown(10)
    file = table.look_up(10, b"b")
    table.look_up(10, b"b")
    table.look_up(10, b"b")
    table.forget(10, 2)
    assert (table[10], file.lookups) == (file, 3)
    # Those were all that the kernel owed.
    table.forget(10, 1)
    assert file.lookups == 2
    table.forget(10, 2)
    assert table.dropped[-1] is file


def test_references_that_will_not_come_any_more_are_owed_no_longer(table: _Known) -> None:
    table.look_up(10, b"a")
    table.disown(10)
    file = table.look_up(10, b"b")
    table.forget_owed()
    table.forget(10, 1)
    assert table.dropped[-1] is file


_names = st.sampled_from([b"a", b"b", b"c" * 255])
_steps = st.lists(
    st.tuples(st.sampled_from(["file", "directory", "forget", "move"]), st.integers(0, 9), _names),
    max_size=60,
)


@given(_steps)
def test_counts_and_chains_stay_right(steps: list[tuple[str, int, bytes]]) -> None:
    """Whatever is looked up, moved and forgotten: no reference is lost and no path is a circle."""
    with new_region() as region:
        _do(_Known(region), steps, region)


def _do(table: _Known, steps: list[tuple[str, int, bytes]], region: Region) -> None:
    known: list[Inode] = [table.root]
    for step, number, name in steps:
        known = [inode for inode in known if inode.ino == ROOT_INO or inode.lookups > 0]
        chosen = known[number % len(known)]
        parents = [inode for inode in known if isinstance(inode, Directory)]
        parent = parents[number % len(parents)]
        if step == "file":
            known.append(table.look_up(100 + number, name, parent))
        elif step == "directory":
            known.append(table.look_up_directory(200 + number, name, parent))
        elif step == "forget" and chosen is not table.root:
            table.forget(chosen.ino, chosen.lookups)
        elif step == "move":
            table.move(chosen, parent, name)
    paths = Paths(table)
    for inode in known:
        if inode.lookups > 0:
            assert table[inode.ino] is inode
            assert paths.of(inode).startswith("/")
    _check_same(_Known(region), table, known)
    for inode in set(known) - {table.root}:
        if inode.lookups > 0:
            table.forget(inode.ino, inode.lookups)
    assert len(table) == 1
    assert isinstance(table.root, Directory)
    assert table.root.children == 0


def _check_same(successor: _Known, table: _Known, known: list[Inode]) -> None:
    """Check that the table of a successor knows the same as the one before it."""
    assert len(successor) == len(table)
    for inode in known:
        if inode.lookups <= 0 or inode.parent is None:
            continue
        woken = successor[inode.ino]
        assert (woken.ino, woken.dev, woken.host_ino, woken.kind, woken.name, woken.lookups) == (
            inode.ino, inode.dev, inode.host_ino, inode.kind, inode.name, inode.lookups
        )  # fmt: skip
        assert woken.parent is not None
        assert woken.parent.ino == inode.parent.ino
        assert Paths(successor).of(woken) == Paths(table).of(inode)
    successor.count_children()
    successor.wake_all()
    for inode in known:
        if isinstance(inode, Directory) and inode.lookups > 0:
            directory = successor[inode.ino]
            assert isinstance(directory, Directory)
            assert directory.children == inode.children
