"""`fusevol log stats`: the numbers are those that one gets by counting."""

import gzip
import json
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from fusevol.cli.log.group import log as log_command
from fusevol.errors import FusevolError, NotFoundError, UsageError
from fusevol.logs.filter import Filter
from fusevol.logs.summary import Summary
from fusevol.record.record import EVENTS, AccessRecord, decode, encode
from tests.log.records import RECORDS, make, text
from tests.patience import PATIENCE_S

FUSEVOL: Final = [sys.executable, "-c", "from fusevol.cli.main import main; main()"]


def run(*arguments: object, stdin: bytes = b"") -> Result:
    result = CliRunner().invoke(log_command, ["stats", *map(str, arguments)], input=stdin)
    if isinstance(result.exception, FusevolError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def counted(*arguments: object) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run("--json", *arguments).stdout)
    return document


LOG: Final = (
    make(1, "open", 100, path="/b", uid=33, pid=2, container="c" * 64),
    make(2, "read", 10, bytes_read=100, size=4096),
    make(3, "read", 30, bytes_read=1),
    make(4, "read", 20, result="EIO", bytes_read=None),
    make(5, "write", 7, path="/b", bytes_written=50, comm="cp"),
    make(6, "release", 1, bytes_read=101, bytes_written=50),
    make(7, "gap", 0, path=None, uid=None, pid=None, comm=None, lost=12, reason="full"),
    make(8, "unmount", 0, path=None, uid=None, pid=None, comm=None),
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "data.log"
    path.write_bytes(text(*LOG))
    return path


def test_by_operation(log: Path) -> None:
    document = counted(log)
    assert document["groups"] == [
        {"op": "open", "count": 1, "errors": 0, "bytes_read": 0, "bytes_written": 0, "p50_us": 100,
         "p95_us": 100, "p99_us": 100, "total_us": 100},
        {"op": "read", "count": 3, "errors": 1, "bytes_read": 101, "bytes_written": 0, "p50_us": 20,
         "p95_us": 30, "p99_us": 30, "total_us": 60},
        {"op": "write", "count": 1, "errors": 0, "bytes_read": 0, "bytes_written": 50, "p50_us": 7,
         "p95_us": 7, "p99_us": 7, "total_us": 7},
        {"op": "release", "count": 1, "errors": 0, "bytes_read": 0, "bytes_written": 0, "p50_us": 1,
         "p95_us": 1, "p99_us": 1, "total_us": 1},
    ]  # fmt: skip
    assert (document["count"], document["lost"], document["by"]) == (6, 12, "op")
    assert (document["first"], document["last"]) == (LOG[0].time, LOG[5].time)


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("path", [({"path": "/b"}, 2), ({"path": "/a"}, 4)]),
        (
            "process",
            [
                ({"pid": 2, "comm": "sh"}, 1),
                ({"pid": 1, "comm": "sh"}, 4),
                ({"pid": 1, "comm": "cp"}, 1),
            ],
        ),
        ("container", [({"container": "c" * 64}, 1), ({"container": None}, 5)]),
        ("uid", [({"uid": 33}, 1), ({"uid": 0}, 5)]),
    ],
)
def test_by_something_else(log: Path, by: str, groups: list[tuple[dict[str, Any], int]]) -> None:
    found = counted("--by", by, log)["groups"]
    keys = groups[0][0].keys()
    assert [({key: one[key] for key in keys}, one["count"]) for one in found] == groups


def test_record_of_several_operations(log: Path) -> None:
    log.write_bytes(text(make(1, us=11, count=4, bytes_read=400), make(2, us=100, bytes_read=1)))
    [group] = counted(log)["groups"]
    assert (group["count"], group["total_us"], group["bytes_read"]) == (5, 111, 401)
    assert (group["p50_us"], group["p99_us"]) == (3, 100)


def test_text(log: Path) -> None:
    lines = run(log).stdout.splitlines()
    assert lines[0] == (
        "6 operations, 2026-11-23T10:00:01.000000Z to 2026-11-23T10:00:06.000000Z; "
        "12 WERE NOT RECORDED"
    )
    assert lines[1].split()[-1] == "op"
    assert lines[3].split() == ["3", "1", "101", "0", "20", "30", "30", "60", "35.7%", "read"]
    assert len({line.index(line.split()[9]) for line in lines[2:]}) == 1
    assert run("-n", 1, log).stdout.splitlines()[2:] == [
        lines[2], "and 3 more; -n shows more rows"
    ]  # fmt: skip
    assert len(counted("-n", 1, log)["groups"]) == 1


def test_names_in_text_are_harmless(log: Path) -> None:
    log.write_bytes(text(make(1, path="/\x1b[2J\n\u202e", comm="a\x07\n")))
    for by in ("path", "process"):
        lines = run("--by", by, log).stdout.splitlines()
        assert len(lines) == 3
        assert all(map(str.isprintable, lines))


def test_nothing_to_count(tmp_path: Path) -> None:
    empty = tmp_path / "empty.log"
    empty.touch()
    assert run(empty).stdout.splitlines()[0] == "0 operations"
    assert counted(empty)["groups"] == []


def test_filters_rotated_files_and_skipped_lines(log: Path) -> None:
    older = log.with_name("data.log.1.gz")
    older.write_bytes(gzip.compress(text(make(0, us=1)) + b"nonsense\n"))
    log.write_bytes(b"more of it\n" + log.read_bytes())
    result = run("--json", "--op", "read", "--result", "ok", log)
    assert f"2 lines skipped, first at line 2 of {older}: " in result.stderr
    assert json.loads(result.stdout)["count"] == 3
    assert counted("--no-rotated", "--op", "read", log)["count"] == 3
    document = json.loads(run("--json", "-", stdin=text(*LOG)).stdout)
    assert document["count"] == 6


def test_missing_log(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none\.log: no such file"):
        run(tmp_path / "none.log")
    with pytest.raises(NotFoundError, match=r"none\.log: no such file"):
        run("--interval", 1, tmp_path / "none.log")


def test_only_one_log_can_be_followed(log: Path) -> None:
    with pytest.raises(UsageError, match="only one log can be followed; give one FILE"):
        run("--interval", 1, log, log)


def expected(records: list[AccessRecord], by: str) -> dict[Any, tuple[int, int, int, int, int]]:
    groups = defaultdict(list)
    for record in records:
        if record.op not in EVENTS:
            key = (record.pid, record.comm) if by == "process" else getattr(record, by)
            groups[key].append(record)
    return {
        key: (
            sum(max(1 if one.count is None else one.count, 1) for one in group),
            sum(one.result != "ok" for one in group),
            sum(one.bytes_read or 0 for one in group if (one.op, one.result) == ("read", "ok")),
            sum(one.bytes_written or 0 for one in group if (one.op, one.result) == ("write", "ok")),
            sum(one.us for one in group),
        )
        for key, group in groups.items()
    }


@given(st.lists(RECORDS), st.lists(RECORDS), st.sampled_from(["op", "path", "process", "uid"]))
def test_summary(one: list[AccessRecord], other: list[AccessRecord], by: str) -> None:
    parts = Summary(by), Summary(by)
    for part, records in zip(parts, (one, other), strict=True):
        part.add(records)
    parts[0].merge(parts[1])
    assert {
        key: (
            totals.count, totals.errors, totals.bytes_read, totals.bytes_written, totals.total_us
        )
        for key, totals in parts[0].groups.items()
    } == expected(one + other, by)  # fmt: skip
    gaps = [record.lost or 0 for record in one + other if record.op in EVENTS]
    assert parts[0].lost == sum(gaps)


@given(st.lists(st.integers(0, 10_000), min_size=1))
def test_percentiles(durations: list[int]) -> None:
    summary = Summary("op")
    summary.add(make(1, us=us) for us in durations)
    for percent in (1, 50, 95, 99, 100):
        (found,) = summary.groups["read"].percentiles_us(percent)
        assert found in durations
        assert sum(us <= found for us in durations) * 100 >= percent * len(durations)
        assert sum(us < found for us in durations) * 100 < percent * len(durations)
    assert summary.groups["read"].percentiles_us(50) == [statistics.median_low(durations)]


LONG: Final = 60_000


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "data.log"
    with path.open("wb") as file:
        for seq in range(LONG):
            op = ("read", "write", "unlink", "getattr")[seq % 4]
            record = make(
                seq, op, seq % 1009, path=f"/dir{seq % 7}/file{seq % 1000}.txt",
                uid=seq % 5, pid=seq % 11, container="ab" * 32 if seq % 2 else None,
                bytes_read=seq if op == "read" else None,
                result="ENOENT" if seq % 13 == 0 else "ok",
            )  # fmt: skip
            file.write(encode(record) + b"\n")
    return path


@pytest.mark.parametrize("by", ["op", "path", "process", "container", "uid"])
@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], Filter()),
        (["--result", "failed", "--uid", "3"], Filter(results=("failed",), uids=(3,))),
        (["--path", "/dir3", "--pid", "2"], Filter(paths=("/dir3",), pids=(2,))),
        (
            ["--op", "read", "--container", "abab", "--since", "2026-11-23T10:10Z"],
            Filter(ops=("read",), containers=("abab",), since="2026-11-23T10:10:00.000000Z"),
        ),
    ],
)
def test_long_log(long_log: Path, by: str, arguments: list[str], wanted: Filter) -> None:
    done = subprocess.run(
        [*FUSEVOL, "log", "stats", "--json", "--by", by, *arguments, long_log],
        capture_output=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.stderr == b""
    keep = wanted.compile()
    records = filter(keep, map(decode, long_log.read_bytes().splitlines()))
    assert {
        (one["pid"], one["comm"]) if by == "process" else one[by]: (
            one["count"], one["errors"], one["bytes_read"], one["bytes_written"], one["total_us"]
        )
        for one in json.loads(done.stdout)["groups"]
    } == expected(list(records), by)  # fmt: skip


@pytest.fixture
def live(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*FUSEVOL, "log", "stats", "--interval", "0.2", "--json", log],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        yield process
        process.kill()


def next_interval(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout
    document: dict[str, Any] = json.loads(process.stdout.readline())
    return document


def test_intervals(log: Path, live: subprocess.Popen[bytes]) -> None:
    # What stands in the log before does not count; intervals come with nothing to count, too.
    assert next_interval(live)["count"] == 0
    with log.open("ab") as file:
        file.write(text(*(make(seq) for seq in range(9, 109))) + b"nonsense\n")
    seen: Counter[str] = Counter()
    deadline = time.monotonic() + PATIENCE_S
    while seen["read"] < 100 and time.monotonic() < deadline:
        for group in next_interval(live)["groups"]:
            seen[group["op"]] += group["count"]
    assert seen == {"read": 100}
    assert next_interval(live)["count"] == 0
    live.send_signal(signal.SIGINT)
    _output, errors = live.communicate(timeout=PATIENCE_S)
    assert live.returncode == 130
    assert errors.strip().startswith(b"fusevol: 1 line skipped, first at line 109 of ")


def test_intervals_end_with_their_pipe() -> None:
    done = subprocess.run(
        [*FUSEVOL, "log", "stats", "--interval", "60", "--json", "-"],
        input=text(*LOG), capture_output=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert [json.loads(line)["count"] for line in done.stdout.splitlines()] == [6]


def test_help_teaches() -> None:
    for name in ("show", "stats"):
        output = CliRunner().invoke(log_command, [name, "--help"]).output
        assert sum(f"fusevol log {name} " in text for text in output.splitlines()) >= 4
        assert max(map(len, output.splitlines())) <= 88
