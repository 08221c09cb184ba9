"""Node entries: whatever instant the writer dies at, the next one finds the old or the new."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusevol.recovery.nodes import EXTRA, NOWHERE, STRIDE, Node, NodeEntries
from fusevol.recovery.region import NODES, NODES_END, NODES_HIGH, WORD, Region
from tests.unit.dying import Died, DyingWriter, tear_entries
from tests.unit.regions import new_region

_ENOUGH = 1 << 30
_PAGE = 4096
_LONG = b"n" * 255
_HANDLE = b"h" * 136

_names = st.binary(max_size=255) | st.sampled_from([b"", b"a", _LONG, b"x" * 64, b"y" * 65])
_handles = st.none() | st.binary(min_size=1, max_size=136) | st.just(_HANDLE)
_words = st.integers(0, (1 << 64) - 1)
_few_inos = st.integers(1, 4)


@dataclass(frozen=True)
class Add:
    ino: int
    host: int
    dev: int
    name: bytes


@dataclass(frozen=True)
class Replace:
    ino: int
    parent: int
    name: bytes
    handle: bytes | None


@dataclass(frozen=True)
class Drop:
    ino: int


@dataclass(frozen=True)
class Count:
    ino: int
    lookups: int


@dataclass(frozen=True)
class Pin:
    ino: int
    fd: int


@dataclass(frozen=True)
class Mark:
    ino: int
    gone: bool


Step = Add | Replace | Drop | Count | Pin | Mark
_steps = st.one_of(
    st.builds(Add, _few_inos, _words, _words, _names),
    st.builds(Replace, _few_inos, _words, _names, _handles),
    st.builds(Drop, _few_inos),
    st.builds(Count, _few_inos, _words),
    st.builds(Pin, _few_inos, st.integers(-1, 1 << 20)),
    st.builds(Mark, _few_inos, st.booleans()),
)


class Model:
    """What has to be known: node id -> what its entry says."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}

    def after(self, step: Step) -> dict[int, Node]:
        nodes = dict(self.nodes)
        old = nodes.get(step.ino)
        if isinstance(step, Add):
            if old is None:
                nodes[step.ino] = Node(
                    step.host, step.dev, 7, 0, -1, stat.S_IFREG, step.name, None, False, False
                )
        elif old is None:
            pass
        elif isinstance(step, Replace):
            nodes[step.ino] = replace(
                old, parent=step.parent, name=step.name, handle=step.handle, removed=False
            )
        elif isinstance(step, Drop):
            del nodes[step.ino]
        elif isinstance(step, Count):
            nodes[step.ino] = replace(old, lookups=step.lookups)
        elif isinstance(step, Pin):
            nodes[step.ino] = replace(old, fd=step.fd)
        elif step.gone:
            nodes[step.ino] = replace(old, gone=True)
        else:
            nodes[step.ino] = replace(old, removed=True)
        return nodes


class Writer:
    """Does the steps on a region."""

    def __init__(self, region: Region) -> None:
        self.entries = NodeEntries(region)
        self._places: dict[int, int] = {}

    def do(self, step: Step) -> None:
        entries, places, ino = self.entries, self._places, step.ino
        if isinstance(step, Add):
            if ino not in places:
                places[ino] = entries.add(ino, step.host, step.dev, stat.S_IFREG, 7, step.name)
        elif ino not in places:
            pass
        elif isinstance(step, Replace):
            places[ino] = entries.replace(places[ino], step.parent, step.name, step.handle)
        elif isinstance(step, Drop):
            entries.drop(places.pop(ino))
        elif isinstance(step, Count):
            entries.set_lookups(places[ino], step.lookups)
        elif isinstance(step, Pin):
            entries.set_pin(places[ino], step.fd)
        elif step.gone:
            entries.set_gone(places[ino])
        else:
            entries.set_removed(places[ino])


@pytest.fixture
def region() -> Iterator[Region]:
    with new_region() as region:
        yield region


def _loaded(region: Region) -> tuple[NodeEntries, dict[int, int]]:
    entries = NodeEntries(region)
    return entries, entries.load()


def _known(region: Region) -> dict[int, Node]:
    entries, places = _loaded(region)
    return {ino: entries.read(at) for ino, at in places.items()}


def _dying_at(stores: int, steps: list[Step]) -> bool:
    """Die after so many stores, and look at what is found; return whether it came to that."""
    model = Model()
    with new_region() as region:
        dying = DyingWriter(region, stores)
        step = None
        try:
            writer = Writer(dying.region())
            for step in steps:
                writer.do(step)
                model.nodes = model.after(step)
        except Died:
            assert step is not None
            _check(region, [model.nodes, model.after(step)])
            return True
        _check(region, [model.nodes])
        return False


def _check(region: Region, allowed: list[dict[int, Node]]) -> None:
    entries, places = _loaded(region)
    known = {ino: entries.read(at) for ino, at in places.items()}
    assert known in allowed
    # No place is both free and used: what is new now leaves all else as it is.
    for number in range(40):
        at = entries.add(1000 + number, 1, 2, stat.S_IFREG, 3, b"\xff" * 255)
        entries.replace(at, 5, b"\xfe" * 255, b"\xfd" * 136)
    assert {ino: entries.read(at) for ino, at in places.items()} == known
    again = _known(region)
    assert {ino: node for ino, node in again.items() if ino < 1000} == known
    assert len(again) == len(known) + 40


@settings(max_examples=60, deadline=None)
@given(st.lists(_steps, min_size=1, max_size=8))
def test_whenever_the_writer_dies_the_old_or_the_new_is_found(steps: list[Step]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        tear_entries(monkeypatch)
        stores = 0
        while _dying_at(stores, steps):
            stores += 1


def test_a_long_name_with_a_handle_is_replaced_whole_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tear_entries(monkeypatch)
    steps: list[Step] = [
        Add(1, 2, 3, _LONG), Replace(1, 7, b"m" * 254, _HANDLE), Replace(1, 7, b"s", None),
        Drop(1), Add(2, 3, 4, b"k" * 200),
    ]  # fmt: skip
    stores = 0
    while _dying_at(stores, steps):
        stores += 1
    assert stores > 150, "so many words were written one after the other"


def test_the_writer_may_die_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes on with what the last one left, and adds to it."""
    tear_entries(monkeypatch)
    with new_region() as region:
        for stores in range(300):
            dying = DyingWriter(region, stores)
            entries = NodeEntries(dying.region())
            before = _known(region)
            try:
                entries.load()
                at = entries.add(100 + stores, 1, 2, stat.S_IFREG, 3, b"o" * 100)
                entries.replace(at, 5, b"p" * 200, b"q" * 60)
            except Died:
                pass
            known = _known(region)
            assert {ino: known.pop(ino) for ino in before} == before
            assert list(known) in ([], [100 + stores])
        assert len(region_inos(region)) > 200
        # And nothing but what is known takes room.
        assert sum(1 for ino in NodeEntries(region).column(0) if ino) == sum(
            _places_of(node) for node in _known(region).values()
        )


def region_inos(region: Region) -> set[int]:
    return set(NodeEntries(region).column(0)) - {0, EXTRA}


def _places_of(node: Node) -> int:
    beyond = len(node.name) + len(node.handle or b"") - 64
    return 1 + max(0, -(-beyond // 112))


def test_places_are_used_again(region: Region) -> None:
    entries = NodeEntries(region)
    for _ in range(1000):
        entries.drop(entries.add(1, 2, 3, stat.S_IFREG, 4, _LONG))
    assert region.words[NODES_HIGH] - NODES <= _PAGE // WORD


def _fill(entries: NodeEntries, count: int, name: bytes = b"name") -> list[int]:
    return [entries.add(10 + n, n, 1, stat.S_IFREG, 1, name) for n in range(count)]


def _in_order(places: list[int]) -> list[int]:
    return places


def _backwards(places: list[int]) -> list[int]:
    return places[::-1]


def _scattered(places: list[int]) -> list[int]:
    return [place for first in range(997) for place in places[first::997]]


@pytest.mark.parametrize("order", [_in_order, _backwards, _scattered])
def test_memory_is_given_back_in_whatever_order_inodes_are_forgotten(
    region: Region, order: Callable[[list[int]], list[int]]
) -> None:
    entries = NodeEntries(region)
    empty = region.resident_bytes()
    for _ in range(3):
        places = _fill(entries, 100_000)
        full = region.resident_bytes()
        for at in order(places):
            entries.drop(at)
        assert full > 12_000_000
        # As much as is kept for the next ones.
        assert region.resident_bytes() < empty + 5_000_000


def test_what_is_left_between_the_forgotten_stays(region: Region) -> None:
    entries = NodeEntries(region)
    places = _fill(entries, 100_000, _LONG)
    kept = set(places[::1000])
    for at in places:
        if at not in kept:
            entries.drop(at)
    assert region.resident_bytes() < 6_000_000
    for known in (entries, _loaded(region)[0]):
        assert [known.read(at).host_ino for at in sorted(kept)] == list(range(0, 100_000, 1000))
        assert {known.read(at).name for at in kept} == {_LONG}


def test_a_successor_takes_no_memory_for_what_was_given_back(region: Region) -> None:
    entries = NodeEntries(region)
    places = _fill(entries, 100_000)
    for at in places[:-1]:
        entries.drop(at)
    entries.trim()
    before = region.resident_bytes()
    successor = NodeEntries(region)
    assert list(successor.load().values()) == places[-1:]
    assert successor.pins() == []
    assert successor.children() == {1: 1}
    assert region.resident_bytes() == before
    # And uses it again rather than go beyond.
    high = region.words[NODES_HIGH]
    _fill(successor, 50_000)
    assert region.words[NODES_HIGH] == high


def test_a_successor_has_less_to_look_at_when_much_was_forgotten(region: Region) -> None:
    entries = NodeEntries(region)
    places = _fill(entries, 100_000)
    for at in places[1:]:
        entries.drop(at)
    entries.trim()
    assert region.words[NODES_HIGH] == NODES + _PAGE // WORD
    assert len(entries.column(0)) == _PAGE // WORD // 16


def test_columns_are_those_of_the_places(region: Region) -> None:
    entries = NodeEntries(region)
    places = _fill(entries, 70_000)
    kept = [places[0], places[40_000], places[-1]]
    entries.set_gone(kept[1])
    for at in places:
        if at not in kept:
            entries.drop(at)
    entries.trim()
    hosts = entries.column(1)
    assert [hosts[(at - NODES) // STRIDE] for at in kept] == [0, 40_000, 69_999]
    assert [entries.identity(at) for at in kept] == [(1, 0), None, (1, 69_999)]


def test_the_writer_may_die_as_it_gives_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    tear_entries(monkeypatch)
    monkeypatch.setattr("fusevol.recovery.nodes._IDLE_PAGES", 2)
    for stores in range(0, 8000, 37):
        with new_region() as region:
            dying = DyingWriter(region, stores)
            entries = NodeEntries(dying.region())
            places: dict[int, int] = {}
            ino = 0
            try:
                for ino in range(1, 200):
                    places[ino] = entries.add(ino, ino, 1, stat.S_IFREG, 1, b"n")
                for ino in range(1, 199):
                    entries.drop(places[ino])
                    del places[ino]
            except Died:
                pass
            known = _known(region)
            assert set(places) <= set(known) | {ino}
            assert set(known) <= set(places) | {ino}
            assert all(node.host_ino == number for number, node in known.items())


def test_a_state_that_an_earlier_version_wrote_is_gone_on_with(region: Region) -> None:
    """It counted by entries, not by pages."""
    entries = NodeEntries(region)
    places = _fill(entries, 3)
    region.words[NODES_HIGH] = places[-1] + 16
    assert sorted(_loaded(region)[1]) == [10, 11, 12]
    assert region.words[NODES_HIGH] % (_PAGE // WORD) == 0


def test_when_all_processes_died_nothing_is_pinned_and_names_are_whole(region: Region) -> None:
    entries = NodeEntries(region)
    at = entries.replace(entries.add(9, 2, 3, stat.S_IFREG, 4, _LONG), 4, _LONG, _HANDLE)
    entries.set_pin(at, 5)
    assert entries.pins() == [5]
    entries.lose_pins()
    assert entries.pins() == []
    node = entries.read(at)
    assert (node.name, node.handle, node.fd) == (_LONG, _HANDLE, -1)


def test_what_does_not_fit_is_served_and_not_kept(region: Region) -> None:
    region.words[NODES_HIGH] = NODES_END
    entries = NodeEntries(region)
    at = entries.add(1, 2, 3, stat.S_IFREG, 4, _LONG)
    assert at == NOWHERE
    for change in (
        partial(entries.set_lookups, at, 1), partial(entries.set_pin, at, 5),
        partial(entries.set_removed, at), partial(entries.replace, at, 1, _LONG, _HANDLE),
        partial(entries.drop, at),
    ):  # fmt: skip
        change()
    region.words[NODES_HIGH] = NODES
    assert _known(region) == {}


def test_the_state_outlives_its_writer() -> None:
    """A process that is killed as it writes, with nothing between it and the memory."""
    with new_region() as region:
        pid = os.fork()
        if pid == 0:
            entries = NodeEntries(region)
            ino = 0
            while True:
                ino += 1
                at = entries.add(ino, ino, 2, stat.S_IFREG, 3, b"%d" % ino * 20)
                entries.replace(at, ino, b"%d" % ino * 30, b"%d" % ino * 10)
        while region.words[NODES_HIGH] < NODES + 200 * _PAGE // WORD:
            pass
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        known = _known(region)
        newest = max(known)
        assert set(known) == set(range(1, newest + 1))
        for ino, node in known.items():
            whole = b"%d" % ino * 30, b"%d" % ino * 10, ino
            assert (node.name, node.handle, node.parent) == whole or ino == newest
