"""Counters: what is counted is read by others as it was counted, whatever the writer is doing."""

import errno
import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusevol.errors import FusevolError
from fusevol.record.record import OPERATIONS
from fusevol.recovery import counters
from fusevol.recovery.counters import BUCKETS, Counters
from fusevol.recovery.journal import CODES
from fusevol.recovery.nodes import NodeEntries
from fusevol.recovery.region import LOG_BYTES, LOG_LOST, LOG_RECORDS, Region
from tests.unit.regions import new_region

_COUNTED = st.lists(
    st.tuples(
        st.sampled_from(OPERATIONS),
        st.one_of(st.integers(0, 1 << 33), st.sampled_from([0, 1, 2, 3, (1 << 31) - 1, 1 << 60])),
        st.sampled_from([0, 0, errno.ENOENT, errno.EMEDIUMTYPE]),
    ),
    max_size=40,
)


@pytest.fixture
def region() -> Iterator[Region]:
    with new_region() as region:
        yield region


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(_COUNTED)
def test_what_is_counted_is_read(counted: list[tuple[str, int, int]]) -> None:
    with new_region() as region:
        writer = Counters(region)
        for op, us, number in counted:
            writer.count(CODES[op], us, number)
        found = counters.read(region.fd).operations
    assert set(found) == {op for op, _, _ in counted}
    for op, counts in found.items():
        mine = [(us, number) for name, us, number in counted if name == op]
        assert counts.count == sum(counts.buckets) == len(mine)
        assert len(counts.buckets) == BUCKETS
        assert counts.us_total == sum(us for us, _ in mine)
        assert sum(counts.errors.values()) == sum(1 for _, number in mine if number)
        for bucket, count in enumerate(counts.buckets[:-1]):
            low, high = (1 << bucket) >> 1, 1 << bucket
            assert count == sum(1 for us, _ in mine if low <= us < high)
        for name, count in counts.errors.items():
            assert count == [number for _, number in mine].count(getattr(errno, name))


def test_totals_and_gauges_are_read(region: Region) -> None:
    places = {
        "bytes_read": counters.BYTES_READ, "bytes_written": counters.BYTES_WRITTEN,
        "left_out": counters.LEFT_OUT, "known_inodes": counters.KNOWN_INODES,
        "open_files": counters.OPEN_FILES, "open_directories": counters.OPEN_DIRECTORIES,
        "log_bytes": LOG_BYTES, "records": LOG_RECORDS, "lost": LOG_LOST,
    }  # fmt: skip
    for value, place in enumerate(places.values(), 1 << 40):
        region.words[place] = value
    region.add_restart("killed")
    snapshot = counters.read(region.fd)
    assert [getattr(snapshot, name) for name in places] == list(range(1 << 40, (1 << 40) + 9))
    assert snapshot.restarts == 1
    assert len(region.log_cells()) > LOG_LOST - LOG_BYTES + 5


def test_inodes_are_counted_also_after_a_restart(region: Region) -> None:
    nodes = NodeEntries(region)
    places = [nodes.add(ino, ino, 1, 0o100000, 1, b"name") for ino in range(10, 20)]
    places[3] = nodes.replace(places[3], 1, b"n" * 200, b"handle")
    for at in places[:4]:
        nodes.drop(at)
    assert counters.read(region.fd).known_inodes == 6
    region.words[counters.KNOWN_INODES] = 0  # as a state of before there were counters
    successor = NodeEntries(region)
    successor.load()
    assert counters.read(region.fd).known_inodes == 6
    successor.drop(places[4])
    assert counters.read(region.fd).known_inodes == 5


def test_reading_leaves_the_state_as_small_as_it_is(region: Region) -> None:
    before = region.resident_bytes()
    assert counters.read(region.fd).operations == {}
    assert region.resident_bytes() == before


def test_reading_goes_on_while_it_is_written(region: Region) -> None:
    done = threading.Event()

    def write() -> None:
        writer = Counters(region)
        while not done.is_set():
            writer.count(CODES["write"], 5, errno.ENOSPC)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        before = 0
        for _ in range(300):
            counts = counters.read(region.fd).operations.get("write")
            if counts is not None:
                assert counts.count >= before
                assert abs(counts.us_total - 5 * counts.count) <= 5
                before = counts.count
    finally:
        done.set()
        thread.join()
    assert before


def test_another_version_and_something_else_are_refused(region: Region) -> None:
    region.words[1] += 1
    pipe = os.pipe()
    try:
        for fd in (region.fd, pipe[0]):
            with pytest.raises(FusevolError, match="another version"):
                counters.read(fd)
    finally:
        os.close(pipe[0])
        os.close(pipe[1])
