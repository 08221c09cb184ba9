"""Open entries: what clients hold open is found again, whole, whenever the writer died."""

import errno
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusevol.model import INVISIBLE, UNKNOWN
from fusevol.recovery import open_handles as opens_module
from fusevol.recovery.open_handles import (
    BY_RING,
    DEVICE,
    DIRECTORY,
    FILE,
    READ,
    SET_ID,
    SIZE,
    WRITTEN,
    OpenEntries,
)
from fusevol.recovery.region import OPENS, OPENS_END, OPENS_HIGH, Region
from tests.unit.dying import Died, DyingWriter, tear_entries
from tests.unit.regions import new_region

_CONTAINER = "c" * 64


@pytest.fixture
def region() -> Iterator[Region]:
    with new_region() as region:
        yield region


def test_all_that_is_open_is_found_again(region: Region) -> None:
    opens = OpenEntries(region)
    at = opens.add(FILE, 3, 10, 7, 0o2001, 1000, 100, 4711, 12345, "bash", _CONTAINER)
    opens.set_marks(at, SET_ID | BY_RING)
    for word, value in ((READ, 1 << 40), (WRITTEN, 5), (SIZE, 99)):
        opens.words[at + word] = value
    opens.add(DIRECTORY, 1, 11, 8, comm=None, container=UNKNOWN, error="EMFILE")
    opens.add(DEVICE, 2049, 0, 9)
    file, directory, device = OpenEntries(region).load()
    assert (file.kind, file.fh, file.ino, file.fd, file.flags) == (FILE, 3, 10, 7, 0o2001)
    assert (file.uid, file.gid, file.pid, file.marks) == (1000, 100, 4711, SET_ID | BY_RING)
    assert (file.bytes_read, file.bytes_written, file.size) == (1 << 40, 5, 99)
    assert (file.comm, file.container) == ("bash", _CONTAINER)
    assert file.error is None
    assert (directory.kind, directory.comm, directory.container) == (DIRECTORY, None, UNKNOWN)
    assert directory.error == "EMFILE"
    assert (device.kind, device.fh, device.fd) == (DEVICE, 2049, 9)
    assert OpenEntries(region).descriptors() == [7, 8, 9]


@pytest.mark.parametrize("error", [None, INVISIBLE, *errno.errorcode.values()])
def test_why_an_opener_is_not_known_is_kept(region: Region, error: str | None) -> None:
    OpenEntries(region).add(FILE, 3, 10, 7, comm="c" * 64, container="d" * 64, error=error)
    (kept,) = OpenEntries(region).load()
    assert (kept.comm, kept.container, kept.error) == ("c" * 64, "d" * 64, error)


def test_what_was_closed_is_not_found_and_its_place_is_used_again(region: Region) -> None:
    opens = OpenEntries(region)
    places = [opens.add(FILE, fh, 10, fh) for fh in range(5)]
    opens.drop(places[2])
    successor = OpenEntries(region)
    assert [entry.fh for entry in successor.load()] == [0, 1, 3, 4]
    assert successor.descriptors() == [0, 1, 3, 4]
    assert successor.add(FILE, 9, 10, 9) == places[2]


@given(st.none() | st.text(max_size=100), st.none() | st.text(max_size=1020))
def test_the_opener_is_found_by_a_whole_container(comm: str | None, container: str | None) -> None:
    with new_region() as region:
        OpenEntries(region).add(FILE, 1, 2, 3, comm=comm, container=container)
        (found,) = OpenEntries(region).load()
        assert found.container == container
        if comm is None or len(comm.encode()) <= 64:
            assert found.comm == comm
        else:
            assert found.comm is not None
            assert comm.startswith(found.comm.rstrip("\N{REPLACEMENT CHARACTER}"))


@pytest.mark.parametrize("length", [0, 88, 89, 224, 225, 448, 1020])
def test_a_long_name_takes_no_room_once_its_file_is_closed(region: Region, length: int) -> None:
    opens = OpenEntries(region)
    opens.drop(opens.add(FILE, 1, 2, 3, container="c" * length, error="EMFILE"))
    used = region.words[OPENS_HIGH]
    at = opens.add(FILE, 1, 2, 3, container="d" * length, error="EMFILE")
    successor = OpenEntries(region)
    (found,) = successor.load()
    assert (found.container, found.error) == ("d" * length, "EMFILE")
    assert successor.descriptors() == [3]
    successor.lose_descriptors()
    assert OpenEntries(region).load()[0].container == "d" * length
    successor.drop(at)
    assert OpenEntries(region).load() == []
    successor.add(FILE, 1, 2, 3, container="e" * length)
    assert region.words[OPENS_HIGH] == used


def test_a_container_whose_name_has_no_room_is_unknown(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opens_module, "_NOWHERE", OPENS + 2 * 32)
    opens = OpenEntries(region)
    opens.add(FILE, 1, 2, 3, container="c" * 300)
    (found,) = OpenEntries(region).load()
    assert (found.container, found.error) == (UNKNOWN, "ENOSPC")
    opens.add(FILE, 4, 5, 6, container="c" * 200)
    assert [one.container for one in OpenEntries(region).load()] == [UNKNOWN, UNKNOWN]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=10))
def test_whenever_the_writer_dies_what_was_open_is_found(choices: list[int]) -> None:
    """A choice opens something, or closes it if it is open."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        tear_entries(monkeypatch)
        stores = 0
        while _dying_at(stores, choices):
            stores += 1


def _dying_at(stores: int, choices: list[int]) -> bool:
    open_now: dict[int, int] = {}
    with new_region() as region:
        opens = OpenEntries(DyingWriter(region, stores).region())
        for number in choices:
            before = set(open_now)
            try:
                if number in open_now:
                    opens.drop(open_now.pop(number))
                else:
                    open_now[number] = opens.add(
                        FILE, number, number, number, size=number, comm=str(number) * 9,
                        container=str(number) * 90 * number,
                    )  # fmt: skip
            except Died:
                assert _found(region) in (before, before ^ {number})
                return True
        assert _found(region) == set(open_now)
        return False


def _found(region: Region) -> set[int]:
    found = OpenEntries(region).load()
    for entry in found:
        assert entry.fh == entry.ino == entry.fd == entry.size
        assert entry.comm == str(entry.fh) * 9
        assert entry.container == str(entry.fh) * 90 * entry.fh
    return {entry.fh for entry in found}


def test_after_the_death_of_all_processes_no_descriptor_is_taken_for_one(region: Region) -> None:
    opens = OpenEntries(region)
    opens.add(FILE, 1, 2, 3)
    opens.add(DEVICE, 2049, 0, 4)
    opens.lose_descriptors()
    (file,) = OpenEntries(region).load()
    assert file.kind == FILE
    assert opens.descriptors() == []
    opens.set_descriptor(file.at, 6)
    assert opens.descriptors() == [6]


def test_what_does_not_fit_is_served_and_not_kept(region: Region) -> None:
    region.words[OPENS_HIGH] = OPENS_END
    opens = OpenEntries(region)
    at = opens.add(FILE, 1, 2, 3, comm="sh")
    opens.set_marks(at, SET_ID)
    opens.drop(at)
    assert not any(region.words[OPENS_END : OPENS_END + 64]), "the run of another handle"
    region.words[OPENS_HIGH] = OPENS
    assert OpenEntries(region).load() == []
