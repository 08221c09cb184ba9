"""Runs of reads and writes: each operation is told once, at whatever store the worker dies."""

import stat
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter_ns

import pytest

from fusevol.inodes.objects import Inode, OpenFile
from fusevol.model import Caller, OnLogFailure
from fusevol.record.record import OK, AccessRecord, decode
from fusevol.recording.coalescing import Coalescer
from fusevol.recording.recorder import recording
from fusevol.recording.writer import LogWriter
from fusevol.recovery.coalesced_runs import RunEntries, place_of
from fusevol.recovery.counters import Counters
from fusevol.recovery.journal import CODES, DONE, INLINE, RECORDED, Entry
from fusevol.recovery.open_handles import FILE, OpenEntries
from fusevol.recovery.region import OPENS, Region
from tests.unit.dying import Died, DyingWriter
from tests.unit.regions import new_region

_SIZE = 10
_OFFSETS = (0, 10, 20, 5, 15, 99)
"""Of writes: three that follow one another, two that do, one alone."""
_RUNS = [(0, 3), (5, 2), (99, 1)]


@pytest.fixture
def region() -> Iterator[Region]:
    with new_region() as region:
        yield region


def _open_log(path: Path, region: Region) -> LogWriter:
    return LogWriter(str(path), "v", OnLogFailure.CONTINUE, region.log_cells())


def _open_file(region: Region) -> OpenFile:
    caller = Caller(4711, "bash", None)
    file = OpenFile(Inode(7, 1, 7, stat.S_IFREG, None, b"file"), 3, 1, caller, 1000, 100)
    file.fh = 5
    file.at = OpenEntries(region).add(FILE, 5, 7, 3, 1, 1000, 100, 4711, 0, "bash")
    return file


def _coalescer(log: LogWriter, region: Region) -> Coalescer:
    return Coalescer(log, Counters(region), RunEntries(region), 10.0, lambda: None)


def _write(
    coalescer: Coalescer, log: LogWriter, region: Region, file: OpenFile, told: list[int]
) -> None:
    """Do the writes as a worker does; `told` are those that were concluded."""
    conclude = coalescer.coalescing("write", recording("write", Counters(region), log))
    entry = Entry(region.words, INLINE)
    for offset in _OFFSETS:
        region.words[INLINE] = CODES["write"] | DONE
        record = AccessRecord(
            volume="v", op="write", path="/file", ino=7, result=OK, uid=1000, gid=100, pid=4711,
            comm="bash", offset=offset, size=_SIZE, bytes_written=_SIZE,
        )  # fmt: skip
        conclude(entry, record, perf_counter_ns(), 0, file)
        region.words[INLINE] = 0
        told.append(offset)
    coalescer.end(file.fh)


def _told(log: LogWriter) -> list[tuple[int, int]]:
    """Offset and number of operations of each record."""
    records = [decode(line) for line in Path(log.path).read_bytes().splitlines()]
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    for record in records:
        count = record.count or 1
        assert (record.size, record.bytes_written) == (count * _SIZE, count * _SIZE)
        assert (record.path, record.ino, record.uid, record.comm) == ("/file", 7, 1000, "bash")
        assert (record.since is None) == (count == 1)
        assert record.since is None or record.since <= record.time
    return [(record.offset or 0, record.count or 1) for record in records]


def test_what_follows_one_another_is_one_record(region: Region, tmp_path: Path) -> None:
    log = _open_log(tmp_path / "log", region)
    told: list[int] = []
    _write(_coalescer(log, region), log, region, _open_file(region), told)
    assert _told(log) == _RUNS
    assert RunEntries(region).pending(log.next_seq - 1) == []
    log.close()


def test_each_operation_is_told_once_whenever_the_worker_dies(tmp_path: Path) -> None:
    stores = 0
    died = True
    while died:
        with new_region() as region:
            died = _die_after(stores, region, tmp_path / f"{stores}.log")
        stores += 1
    assert stores > 80


def _die_after(stores: int, region: Region, path: Path) -> bool:
    file, told, died = _open_file(region), list[int](), False
    dying = DyingWriter(region, stores).region()
    log = _open_log(path, region)
    try:
        _write(_coalescer(log, dying), log, dying, file, told)
    except Died:
        died = True
    successor = _open_log(path, region)
    last_seq = successor.next_seq - 1
    entry = Entry(region.words, INLINE)
    entry.settle(last_seq)
    if died and entry.phase == RECORDED and len(told) < len(_OFFSETS):
        told.append(_OFFSETS[len(told)])
    heir = _coalescer(successor, region)
    for run in RunEntries(region).pending(last_seq):
        heir.tell(run, "v", "/file")
    records = _told(successor)
    covered = [offset + n * _SIZE for offset, count in records for n in range(count)]
    assert covered == told, stores
    assert RunEntries(region).pending(successor.next_seq - 1) == []
    successor.close()
    return died


def test_a_run_of_a_handle_that_is_closed_is_none(region: Region) -> None:
    file = _open_file(region)
    runs = RunEntries(region)
    runs.begin(place_of(file.at), file.fh + 1, CODES["read"], 0, 1)
    region.words[place_of(file.at)] = runs.next_state()
    assert runs.pending(0) == []


def test_looking_for_runs_where_there_are_none_takes_no_memory(region: Region) -> None:
    OpenEntries(region).add(FILE, 5, 7, 3)
    before = region.resident_bytes()
    assert RunEntries(region).pending(0) == []
    assert region.resident_bytes() == before
    assert place_of(OPENS) != place_of(OPENS + 32)
