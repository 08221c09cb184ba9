"""`fusevol log report`: its numbers are those one gets by counting, in bounded memory; its file."""

import json
import os
import re
import stat
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from operator import add
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusevol.cli.log.group import log as log_command
from fusevol.errors import FusevolError, NotFoundError, UsageError
from fusevol.logs.continuity import Continuity, joined
from fusevol.logs.filter import Filter
from fusevol.logs.summary import Summary
from fusevol.record.record import EVENTS, AccessRecord
from fusevol.report.aggregate import MISSES, Aggregate
from fusevol.report.counting import RecordCounter
from fusevol.report.durations import coarse, percentiles_us, rounded
from fusevol.report.heaviest import Heaviest
from fusevol.report.kept import Kept
from fusevol.report.page import json_for_html
from fusevol.report.records import Texts, moment
from fusevol.report.timeline import WIDTHS_S, Timeline, second_of
from tests.log.records import OPERATION_RECORDS, RECORDS, make, text
from tests.patience import PATIENCE_S

FUSEVOL: Final = [sys.executable, "-c", "from fusevol.cli.main import main; main()"]


def run(*arguments: object, stdin: bytes = b"") -> Result:
    result = CliRunner().invoke(log_command, ["report", *map(str, arguments)], input=stdin)
    if isinstance(result.exception, FusevolError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def data_of(html: bytes) -> dict[str, Any]:
    [found] = re.findall(
        rb'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL
    )
    data: dict[str, Any] = json.loads(found)
    return data


def aggregated(records: list[AccessRecord]) -> Aggregate:
    aggregate = Aggregate()
    gatherer = RecordCounter(aggregate)
    if records:
        gatherer.add(records)
    gatherer.flush()
    return aggregate


def numbers_of(summary: Summary) -> dict[Any, tuple[int, ...]]:
    return {
        key: (one.count, one.errors, one.bytes_read, one.bytes_written, one.total_us)
        for key, one in summary.groups.items()
    }


@settings(max_examples=40)
@given(st.lists(RECORDS), st.lists(RECORDS))
def test_numbers_are_those_of_stats(one: list[AccessRecord], other: list[AccessRecord]) -> None:
    whole = aggregated(one)
    whole.merge(aggregated(other))
    summary = Summary("op")
    for by, group in (
        ("op", whole.ops.values),
        ("container", whole.containers.values),
        ("uid", whole.users.values),
    ):
        summary = Summary(by)
        summary.add(one + other)
        assert {
            key: (n.count, n.errors, n.bytes_read, n.bytes_written, n.us)
            for key, n in group.items()
        } == numbers_of(summary)  # fmt: skip
    assert whole.lost == summary.lost
    assert whole.count == summary.count
    operations = [record for record in one + other if record.op not in EVENTS]
    paths: Counter[str | None] = Counter()
    for record in operations:
        paths[record.path] += max(record.count or 1, 1)
    assert whole.paths.values == paths
    assert whole.events.count == whole.event_counts.total() - whole.event_counts["checkpoint"]
    assert whole.event_counts.total() == len(one + other) - len(operations)
    failed = sum(whole.failed_paths.values.values())
    assert failed == sum(numbers.count for numbers in whole.failures.values.values())
    assert failed + whole.missed_count == sum(n.errors for n in whole.ops.values.values())
    spans = whole.timeline.spans.values()
    assert sum(span.counts.total() for span in spans) == whole.count
    assert sum(span.count_by_us.total() for span in spans) == whole.count
    assert sum(span.errors for span in spans) == failed
    assert sum(span.lost for span in spans) == whole.lost


def test_records_of_several_operations() -> None:
    late = make(3, us=11, count=4, bytes_read=400, time=make(1).time)
    whole = aggregated([make(60, us=2), late, make(60, us=2)])
    assert (whole.count, whole.ops.values["read"].us) == (6, 15)
    assert whole.ops.values["read"].percentiles_us(50, 100) == [2, 3]
    spans = {start: span.counts["read"] for start, span in whole.timeline.spans.items()}
    assert spans == {second_of(late.time): 4, second_of(make(60).time): 2}
    # What all of them took together is no slow operation.
    assert [record.us for record in whole.slowest.first()] == [2, 2]


def test_look_ups_in_vain_are_no_failures() -> None:
    misses = [make(1, op, result=result) for op, result in MISSES]
    whole = aggregated([*misses, make(3, "open", result="EIO", path="/b")])
    assert whole.missed_count == len(whole.missed_paths.values) == 2
    [(failure, numbers)] = whole.failures.values.items()
    assert (failure[:2], numbers.count, numbers.path) == (("open", "EIO"), 1, "/b")


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=300),
    st.integers(2, 9),
    st.integers(30, 1000),
)
@example([(10, 1), (51, 1)], 2, 40)
def test_heaviest_keys(items: list[tuple[int, int]], most: int, room: int) -> None:
    whole: Counter[str] = Counter()
    parts: list[Heaviest[str, int]] = [Heaviest(most, int, room) for _ in range(2)]
    for index, (number, weight) in enumerate(items):
        key = str(number) * number
        whole[key] += weight
        parts[index % 2].add([(key, weight)], add)
    kept = parts[0]
    kept.merge(parts[1], add)
    assert len(kept.values) <= 2 * most
    assert sum(map(len, kept.values)) <= max(room, 120)
    for key, weight in whole.items():
        found = kept.values.get(key, 0)
        assert found <= weight <= found + kept.missed
    if len(whole) <= most and sum(map(len, whole)) <= room:
        assert kept.missed == 0


@given(st.lists(st.lists(st.integers(0, 1000), max_size=20)), st.integers(1, 10))
def test_kept_records(batches: list[list[int]], most: int) -> None:
    parts = [Kept(most, lambda record: record.us) for _ in range(2)]
    for index, batch in enumerate(batches):
        parts[index % 2].add([make(1, us=us) for us in batch])
    parts[0].merge(parts[1])
    every = sorted((us for batch in batches for us in batch), reverse=True)
    assert [record.us for record in parts[0].first()] == every[:most]
    assert parts[0].count == len(every)


@given(
    st.lists(st.integers(1, 80), unique=True, max_size=30),
    st.lists(st.integers(1, 20), min_size=1),
    st.booleans(),
)
def test_missing_numbers(removed: list[int], sizes: list[int], in_parts: bool) -> None:
    left = [make(seq) for seq in range(1, 100) if seq not in removed or seq == 1]
    parts = [Continuity(Filter())]
    for index in range(100):
        batch, left = left[: sizes[index % len(sizes)]], left[sizes[index % len(sizes)] :]
        if in_parts:
            parts.append(Continuity(Filter()))
        if batch:
            parts[-1].add(batch)
    whole = joined(parts, Filter())
    missing = {seq for hole in whole.holes for seq in range(hole.first, hole.last + 1)}
    assert missing == set(removed) - {1}
    assert whole.missing == len(missing)
    assert all(hole.time == make(hole.last + 1).time for hole in whole.holes)


def test_a_log_that_begins_anew_misses_nothing() -> None:
    log = Continuity(Filter())
    log.add([make(7), make(8)])
    log.add([make(1), make(2)])
    log.add([make(1, volume="other"), make(100)])
    assert log.missing == 0


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=900), st.integers(1, 300))
def test_timeline(seconds: list[int], columns: int) -> None:
    whole, other = Timeline(), Timeline()
    for index, second in enumerate(seconds):
        (other if index % 2 else whole).span(second).errors += 1
    whole.merge(other)
    assert len(whole.spans) <= 400
    whole.fit(columns)
    assert all(start % whole.width_s == 0 for start in whole.spans)
    expected = Counter(second // whole.width_s * whole.width_s for second in seconds)
    assert {start: span.errors for start, span in whole.spans.items()} == expected
    reach = (max(expected) - min(expected)) // whole.width_s
    assert reach < columns or whole.width_s == WIDTHS_S[-1]


def test_times() -> None:
    assert all(long % short == 0 for short, long in pairwise(WIDTHS_S))
    assert second_of("2026-11-23T10:00:59.999999Z") == 1_795_428_059
    assert moment("2026-11-23T10:00:59.999999Z") == 1_795_428_059_999_999
    for nonsense in ("", "x", "2026-13-01T00:00:00Z", "2026-11-23T10:00", "\x1b[2J"):
        assert second_of(nonsense) == 0
        assert isinstance(moment(nonsense), str)


@given(st.lists(st.integers(0, 2**53), min_size=1))
def test_durations(durations: list[int]) -> None:
    for us in durations:
        assert us <= rounded(us) <= us * 1.001
        assert us * 7 / 8 <= coarse(us) <= us
        assert us >= 10_000 or rounded(us) == us
    summary = Summary("op")
    summary.add(make(1, us=us) for us in durations)
    found = percentiles_us(Counter(durations), 1, 50, 99, 100)
    assert found == summary.groups["read"].percentiles_us(1, 50, 99, 100)
    assert percentiles_us({}, 50) == [0]


@given(st.recursive(st.text() | st.integers(0, 9), st.lists))
def test_values_in_a_script_element(value: Any) -> None:
    written = json_for_html([value, "</script><!--&\u2028\u2029"])
    assert json.loads(written) == [value, "</script><!--&\u2028\u2029"]
    assert not set("<>&\u2028\u2029") & set(written)


@settings(max_examples=20)
@given(st.lists(OPERATION_RECORDS, max_size=20))
def test_whatever_is_shown_is_printable(records: list[AccessRecord]) -> None:
    texts = Texts()
    for record in records:
        for name in (record.path, record.comm, record.container):
            if (number := texts.number(name)) is not None:
                assert texts.number(name) == number
    assert all(map(str.isprintable, texts.all))


LOG: Final = (
    make(1, "mount", uid=None, pid=None, comm=None, path=None, source="/srv"),
    make(2, "open", uid=33, pid=2, container="c" * 64),
    make(3, bytes_read=100, size=4096, offset=0),
    make(4, "write", bytes_written=50, size=50, offset=1000, path="/b"),
    make(5, "lookup", result="ENOENT", path="/none"),
    make(6, "gap", uid=None, pid=None, comm=None, path=None, lost=12, reason="full"),
    make(9, "unlink", result="EACCES", us=70_000),
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "data.log"
    path.write_bytes(text(*LOG))
    return path


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


def test_what_the_page_says(log: Path, page: Path) -> None:
    with log.open("ab") as file:
        file.write(b"nonsense\n")
    result = run("-o", page, log)
    assert f"1 line skipped, first at line 8 of {log}: " in result.stderr
    data = data_of(page.read_bytes())
    assert data["totals"]["count"] == 5
    assert (data["totals"]["errors"], data["totals"]["misses"]) == (2, 1)
    assert (data["totals"]["bytes_read"], data["totals"]["bytes_written"]) == (100, 50)
    trouble = data["trouble"]
    assert (trouble["lost"], trouble["gaps"], trouble["skipped"]) == (12, 1, 1)
    assert trouble["missing"] == 2
    assert trouble["holes"] == [["data", 7, 8, moment(LOG[-1].time)]]
    assert {row[0]: row[1:5] for row in data["tables"]["ops"]["rows"]} == {
        "unlink": [1, 1, 0, 0], "open": [1, 0, 0, 0], "read": [1, 0, 100, 0],
        "write": [1, 0, 0, 50], "lookup": [1, 1, 0, 0],
    }  # fmt: skip
    assert data["tables"]["moved"]["rows"] == [["/a", 100, 0, 100], ["/b", 0, 50, 50]]
    assert data["tables"]["largest"]["rows"] == [["/b", 1050], ["/a", 100]]
    assert data["tables"]["slowest"]["rows"][0][:3] == [70_000, "unlink", "/a"]
    assert data["about"]["command"] == f"fusevol log show {log}"
    assert data["records"]["seq"] == [9, 6, 5, 4, 3, 2, 1]
    assert data["records"]["others"] == 0


def test_filters_and_rotated_files(log: Path, page: Path) -> None:
    log.with_name("data.log.1").write_bytes(text(make(0, path="/b")))
    run("-o", page, "--path", "/b", "--since", LOG[0].time, log)
    data = data_of(page.read_bytes())
    assert (data["totals"]["count"], data["trouble"]["lost"]) == (1, 12)
    assert data["trouble"]["missing"] == 2
    run("-o", page, "--until", LOG[-1].time, log)
    assert data_of(page.read_bytes())["trouble"]["missing"] == 0
    run("-o", page, "--path", "/b", "--since", LOG[0].time, log)
    data = data_of(page.read_bytes())
    assert data["about"]["choice"] == f"--path /b --since {LOG[0].time}"
    assert data["about"]["command"] == f"fusevol log show --path /b --since {LOG[0].time} {log}"
    run("-o", page, log)
    assert data_of(page.read_bytes())["totals"]["count"] == 6
    run("-o", page, "--no-rotated", log)
    assert data_of(page.read_bytes())["totals"]["count"] == 5


def test_long_log_of_which_the_page_shows_a_part(tmp_path: Path, page: Path) -> None:
    log = tmp_path / "long.log"
    with log.open("wb") as file:
        for seq in range(25_000):
            result = "EIO" if seq == 1234 else "ok"
            us = 99_999 if seq == 4321 else 1
            name = f"/{seq}-" + "\u202e\x1b&<" * 60
            file.write(text(make(seq, path=name, us=us, result=result)))
    done = subprocess.run(
        [*FUSEVOL, "log", "report", "-o", page, log],
        capture_output=True, text=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.stderr == ""
    data = data_of(page.read_bytes())
    shown = data["records"]["seq"]
    assert data["totals"]["count"] == 25_000
    assert data["records"]["others"] == 25_000 - len(shown) > 0
    # What failed and what was slow is there, however old, before what is only new.
    assert {1234, 4321, 24_999} <= set(shown)
    assert page.stat().st_size < 6_000_000


def test_the_file_is_nobody_elses(log: Path, page: Path) -> None:
    page.write_text("old")
    page.chmod(0o644)
    run("-o", page, log)
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert sorted(os.listdir(page.parent)) == ["data.log", "report.html"]


def test_what_is_never_replaced(log: Path, page: Path, tmp_path: Path) -> None:
    older = log.with_name("data.log.1")
    older.write_bytes(text(make(0)))
    os.mkfifo(tmp_path / "fifo")
    link = tmp_path / "link"
    link.symlink_to(log)
    before = {path: path.read_bytes() for path in (log, older)}
    for output, reason in (
        (tmp_path, "not a regular file"),
        (tmp_path / "fifo", "not a regular file"),
        (Path("/dev/null"), "not a regular file"),
        (log, "is the log itself"),
        (link, "is the log itself"),
        (older, "is the log itself"),
    ):
        with pytest.raises(UsageError, match=reason):
            run("-o", output, log)
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(FusevolError, match="No such file or directory"):
        run("-o", tmp_path / "none" / "report.html", log)
    with pytest.raises(NotFoundError, match=r"none\.log: no such file"):
        run("-o", page, tmp_path / "none.log")
    assert not page.exists()


def test_to_a_link_and_to_standard_output(log: Path, page: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.html"
    link.symlink_to(page)
    run("-o", link, log)
    assert link.is_symlink()
    assert page.is_file()
    output = run("-o", "-", "-", stdin=log.read_bytes()).stdout_bytes
    assert data_of(output)["totals"]["count"] == 5
    assert data_of(output)["records"]["seq"] == data_of(page.read_bytes())["records"]["seq"]


def test_nothing_to_report(tmp_path: Path, page: Path) -> None:
    empty = tmp_path / "empty.log"
    empty.touch()
    run("-o", page, empty)
    data = data_of(page.read_bytes())
    assert data["totals"]["count"] == 0
    assert data["timeline"]["spans"] == []


def test_help_teaches() -> None:
    output = CliRunner().invoke(log_command, ["report", "--help"]).output
    assert sum("fusevol log report " in line for line in output.splitlines()) >= 4
    assert max(map(len, output.splitlines())) <= 88
