"""The numbers of `fusevol top`: what is read of logs, what percentiles say, how numbers look."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from fusevol.errors import FusevolError, NotFoundError
from fusevol.options.log import LogFormat
from fusevol.record.formats import encoder
from fusevol.record.record import AccessRecord
from fusevol.recovery.counters import BUCKETS
from fusevol.top.activity import Activity, total
from fusevol.top.collector import fair_share
from fusevol.top.newlines import OTHER_PATHS, Actor, NewLines, WatchedLog
from fusevol.top.table import fitted
from fusevol.top.views import duration, short

ALL: Final = 1 << 30
TIME: Final = "2026-11-24T10:00:00.000000Z"


def entry(
    seq: int = 1, path: str = "/a", log_format: LogFormat = LogFormat.JSON, **keys: object
) -> bytes:
    values = {"op": "read", "result": "ok", "us": 5, "pid": 7, "comm": "cat"} | keys
    record = AccessRecord(time=TIME, seq=seq, volume="data", path=path, **values)  # type: ignore[arg-type]  # a test's
    return encoder(log_format)(record) + b"\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data.log"
    path.write_bytes(entry(path="/before"))
    return path


@pytest.fixture
def log(path: Path) -> Iterator[WatchedLog]:
    log = WatchedLog(str(path))
    yield log
    log.close()


def append(path: Path, *lines: bytes) -> None:
    with path.open("ab") as file:
        file.write(b"".join(lines))


def taken(log: WatchedLog, most_bytes: int = ALL) -> NewLines:
    log.look()
    return log.read(most_bytes)


def counts(lines: NewLines) -> dict[str, float]:
    return {path: activity.count for path, activity in lines.paths.items()}


def test_what_has_come_is_counted_once(path: Path, log: WatchedLog) -> None:
    assert counts(taken(log)) == {}
    append(
        path,
        entry(2, bytes_read=100), entry(3, bytes_read=50, us=40), entry(4, "/b", result="EIO"),
        entry(5, "/b", op="write", bytes_written=9, pid=8), entry(6, op="release", bytes_read=150),
        entry(7, op="gap", us=0), entry(8, "/run", count=4, us=40, bytes_read=8),
    )  # fmt: skip
    lines = taken(log)
    assert counts(lines) == {"/a": 3, "/b": 2, "/run": 4}
    assert lines.share == 1
    assert lines.paths["/a"].bytes_read == 150
    assert lines.paths["/a"].total_us == 50
    assert lines.paths["/b"].failures == {"EIO": 1}
    assert lines.paths["/run"].buckets[(10).bit_length()] == 4
    assert lines.processes[Actor(8, "cat", None)].bytes_written == 9
    assert counts(taken(log)) == {}


def test_the_last_line_waits_for_its_end(path: Path, log: WatchedLog) -> None:
    line = entry(2)
    append(path, line[:20])
    assert counts(taken(log)) == {}
    append(path, line[20:])
    assert counts(taken(log)) == {"/a": 1}


@pytest.mark.parametrize("log_format", list(LogFormat)[1:])
def test_other_formats_and_what_is_none(path: Path, log: WatchedLog, log_format: LogFormat) -> None:
    append(path, entry(2), entry(3, "/b", log_format), b"nonsense\n\n", entry(4))
    lines = taken(log)
    assert counts(lines) == {"/a": 2, "/b": 1}
    assert lines.malformed == 1


def test_a_log_that_was_rotated_is_read_to_its_end(path: Path, log: WatchedLog) -> None:
    append(path, entry(2))
    path.rename(path.with_name("data.log.1"))
    path.touch()
    # The writer still has the old one.
    append(path.with_name("data.log.1"), entry(3))
    assert counts(taken(log)) == {"/a": 2}
    append(path.with_name("data.log.1"), entry(4))
    append(path, entry(5, "/new"))
    assert counts(taken(log)) == {"/a": 1, "/new": 1}
    append(path, entry(6, "/new"))
    assert counts(taken(log)) == {"/new": 1}


def test_a_log_that_was_emptied_or_removed(path: Path, log: WatchedLog) -> None:
    path.write_bytes(b"")
    assert counts(taken(log)) == {}
    append(path, entry(2, "/b"))
    assert counts(taken(log)) == {"/b": 1}
    removed = [log.is_removed]
    path.unlink()
    removed.append(log.is_removed)
    assert removed == [False, True]
    assert counts(taken(log)) == {}


def test_what_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        WatchedLog(str(tmp_path / "none"))
    with pytest.raises(FusevolError, match="not a regular file"):
        WatchedLog("/dev/null")


def test_a_sample_stands_for_the_whole(path: Path, log: WatchedLog) -> None:
    """Of 20,000 records a tenth is read; estimates are near what is in the log."""
    often = [f"/often{n}" for n in range(4)]
    rng = random.Random(3)
    append(path, *(entry(n, rng.choice(often) if n % 2 else f"/{n}") for n in range(20_000)))
    size = log.look()
    lines = log.read(size // 10)
    assert 0.02 < lines.share < 0.12
    for name in often:
        assert lines.paths[name].count / lines.share == pytest.approx(2500, rel=0.3)
    assert total(lines.paths.values()).count / lines.share == pytest.approx(20_000, rel=0.05)
    append(path, entry(20_001, "/next"))
    assert counts(taken(log)) == {"/next": 1}


def test_memory_is_bounded(path: Path, log: WatchedLog) -> None:
    append(path, *(entry(n, f"/{n}", pid=n) for n in range(12_000)))
    lines = taken(log)
    assert len(lines.paths) == len(lines.processes) == 10_001
    assert lines.paths[OTHER_PATHS].count == 2000
    append(path, b"x" * 3_000_000)
    taken(log)
    append(path, b"\n", entry(12_001))
    assert counts(taken(log)) == {"/a": 1}


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(0, 20_000))
def test_logs_share_what_may_be_read(sizes: list[int], most: int) -> None:
    share = fair_share(sizes, most)
    read = sum(min(size, share) for size in sizes)
    if sum(sizes) <= most:
        assert read == sum(sizes)
    else:
        assert most - len(sizes) < read <= most


@given(st.lists(st.integers(0, 2**30), min_size=1, max_size=200), st.floats(1, 100))
@settings(max_examples=60)
def test_percentiles_are_in_the_right_bucket(durations: list[int], percent: float) -> None:
    activity = Activity()
    for us in durations:
        activity.buckets[us.bit_length()] += 1
    told = activity.percentile_us(percent)
    rank = -(-len(durations) * percent // 100)
    exact = sorted(durations)[int(rank) - 1]
    assert told is not None
    assert 2 ** exact.bit_length() // 2 <= told <= 2 ** exact.bit_length()


def test_percentiles_of_nothing_and_of_the_slowest() -> None:
    assert Activity().percentile_us(50) is None
    slow = Activity()
    slow.buckets[BUCKETS - 1] = 1
    assert slow.percentile_us(50) is not None


@given(st.floats(0, 1e20), st.floats(0, 1e15))
def test_numbers_fit_their_columns(number: float, us: float) -> None:
    assert len(short(number)) <= 5
    assert len(duration(us)) <= 5


def test_numbers_look_as_people_write_them() -> None:
    numbers = [0, 0.26, 3, 12.4, 9999, 12_345, 123_456, 99_960, 7_000_000]
    assert [short(number) for number in numbers] == [
        "0", "0.3", "3", "12", "9999", "12.3k", "123k", "100k", "7.0M",
    ]  # fmt: skip
    times = [0, 35, 1234, 12_345, 999_600, 1_500_000, 60e6, 2e9, 7.2e9]
    assert [duration(us) for us in times] == [
        "0us", "35us", "1.2ms", "12ms", "1.0s", "1.5s", "60s", "33m", "2h",
    ]  # fmt: skip


@given(st.text(st.characters(exclude_categories=["C", "M", "Z"]), max_size=60), st.integers(2, 50))
@settings(max_examples=60)
def test_names_fill_their_column(name: str, width: int) -> None:
    shown = fitted(name, width)
    assert cell_len(shown) == width
    assert shown.rstrip() == name or "…" in shown
