"""`fusevol log query`: SQL sees what the other commands see, and can do nothing but look."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import duckdb
import pytest
import zstandard
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusevol.cli.log.group import log as log_command
from fusevol.errors import FusevolError, NotFoundError, UnsupportedError, UsageError
from fusevol.linux.landlock import forbid_writing
from fusevol.logs.filter import Filter
from fusevol.logs.parallel import in_child
from fusevol.logs.plain_files import plain_files
from fusevol.logs.query import answered
from fusevol.logs.reader import Skipped, read
from fusevol.logs.sections import Tally, opened
from fusevol.options.log import LogFormat
from fusevol.record.formats import encoder
from fusevol.record.formats.documents import to_document
from fusevol.record.record import AccessRecord, encode
from tests.log.records import RECORDS
from tests.log.test_formats import HOSTILE

CONTAINER: Final = "4d5e" * 16


def make(seq: int, op: str = "write", **keys: Any) -> AccessRecord:
    record = AccessRecord(
        time=f"2026-11-23T10:{seq // 60 % 60:02d}:{seq % 60:02d}.000001Z",
        seq=seq, volume="data", op=op, path=f"/dir{seq % 3}/a.txt", result="ok", us=seq, uid=0,
        pid=1, comm="sh", bytes_written=10 if op == "write" else None,
    )  # fmt: skip
    for key, value in keys.items():
        setattr(record, key, value)
    return record


def text(*records: AccessRecord, format_: LogFormat = LogFormat.JSON) -> bytes:
    return b"".join(encoder(format_)(record) + b"\n" for record in records)


def run(sql: str, *arguments: object, stdin: bytes = b"") -> Result:
    words = ["query", *([sql] if sql else []), *map(str, arguments)]
    result = CliRunner().invoke(log_command, words, input=stdin)
    if isinstance(result.exception, FusevolError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def rows(sql: str, *arguments: object, stdin: bytes = b"") -> list[dict[str, Any]]:
    return [
        json.loads(one)
        for one in run(sql, "--json", *arguments, stdin=stdin).stdout_bytes.splitlines()
    ]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """All that a log can be: rotated, compressed, in several formats, with what is no record."""
    path = tmp_path / "data.log"
    zstd = zstandard.ZstdCompressor().compress
    path.with_name("data.log.6.gz").write_bytes(gzip.compress(text(make(1))))
    path.with_name("data.log.5.zst").write_bytes(
        zstd(text(make(2)) + b"\xff\xfe\n" + text(make(3)))
    )
    path.with_name("data.log.4.xz").write_bytes(lzma.compress(text(make(4), format_=LogFormat.ECS)))
    path.with_name("data.log.3.bz2").write_bytes(bz2.compress(text(make(5, "gap", lost=3))))
    path.with_name("data.log.2").write_bytes(text(make(6, container=CONTAINER), make(7)))
    path.with_name("data.log.1").write_bytes(
        b'{"time":"2026\n' + text(make(8, "open"))
        + text(make(9, "mkdir", path=HOSTILE), format_=LogFormat.TEXT)
        + text(make(10, "open"), format_=LogFormat.OCSF) + b'{"seq":10}\n'
    )  # fmt: skip
    path.write_bytes(text(make(11), make(12, "rename", to="/b", result="EACCES")))
    return path


def test_all_files_of_a_log_whatever_they_hold(log: Path) -> None:
    result = run("SELECT seq, path FROM log", "--json", log)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["seq"] for one in found] == list(range(1, 13))
    assert found[8]["path"] == HOSTILE
    assert "fusevol: 3 lines skipped, first at line 2 of " in result.stderr
    assert "data.log.5.zst" in result.stderr
    assert rows("SELECT count(*) AS n FROM ops", log) == [{"n": 11}]
    assert rows("SELECT count(*) AS n FROM log", "--no-rotated", log) == [{"n": 2}]
    [times] = rows(
        "SELECT min(time) AS a, max(time) AS b FROM log",
        log,
        "--since",
        "2026-11-23T10:00:03Z",
        "--until",
        "2026-11-23T10:00:07Z",
    )
    assert times == {"a": "2026-11-23T10:00:03.000001Z", "b": "2026-11-23T10:00:06.000001Z"}


def test_where_sql_and_log_come_from(log: Path, tmp_path: Path) -> None:
    sql = "SELECT count(*) AS n FROM log"
    script = tmp_path / "question.sql"
    script.write_text(f"-- how many?\n{sql};\n")
    assert rows("", "-f", script, log) == [{"n": 12}]
    assert rows("", "-f", "-", log, stdin=sql.encode()) == [{"n": 12}]
    assert rows(sql, "-", stdin=text(make(1)) + b"x\n" + text(make(2))) == [{"n": 2}]
    log.write_bytes(log.read_bytes() + text(make(13, volume="other")))
    assert rows(sql, "--no-rotated", "--volume", "other", log) == [{"n": 1}]
    assert rows(sql, os.devnull) == [{"n": 0}]
    with pytest.raises(NotFoundError):
        run(sql, tmp_path / "none.log")
    with pytest.raises(UsageError, match="no log to read"):
        run(sql)


def test_macros(log: Path) -> None:
    sql = """SELECT container_name(container) AS who, folder(path) AS dir, count(*) AS n FROM ops
        WHERE under(path, '/dir0') OR under("to", '/b') GROUP BY ALL ORDER BY 1, 3"""
    assert rows(sql, log) == [
        {"who": "4d5e4d5e4d5e", "dir": "/dir0", "n": 1},
        {"who": "host", "dir": "/dir0", "n": 2},
    ]
    sql = "SELECT folder(p) AS f FROM (VALUES ('/a'), ('/'), ('/a/b')) t(p)"
    assert [one["f"] for one in rows(sql, log)] == ["/", "/", "/a"]


def test_a_container_with_a_name_instead_of_an_id_is_called_by_all_of_it(log: Path) -> None:
    log.write_bytes(
        text(make(13, container="postgres-primary"), make(14, container="deadbeef" * 2))
    )
    sql = "SELECT container_name(container) AS who FROM ops ORDER BY seq"
    assert rows(sql, "--no-rotated", log) == [
        {"who": "postgres-primary"},
        {"who": "deadbeefdeadbeef"},
    ]


def test_nothing_comes_between_the_rows(log: Path) -> None:
    sql = "SELECT name, value FROM duckdb_settings() WHERE name LIKE 'enable_progress_bar'"
    assert rows(sql, log) == [{"name": "enable_progress_bar", "value": "false"}]


def test_table_for_people(log: Path) -> None:
    sql = 'SELECT path, us, hash AS "a\x1b[31m" FROM log WHERE seq IN (9, 12)'
    lines = run(sql, log).stdout.splitlines()
    assert lines[0].split() == ["path", "us", r"a\x1b[31m"]
    assert lines[3].split() == ["/dir0/a.txt", "12", "-"]
    assert lines[0].index("us") == lines[3].index("12")
    assert all(map(str.isprintable, lines))


def test_formats(log: Path, tmp_path: Path) -> None:
    sql = "SELECT seq, time, path, hash FROM log WHERE seq = 9"
    result = tmp_path / "result"
    expected = {"seq": 9, "time": "2026-11-23T10:00:09.000001Z", "path": HOSTILE, "hash": None}
    assert rows(sql, log) == [expected]
    run(sql, "--format", "csv", "-o", result, log)
    [row] = csv.DictReader(io.StringIO(result.read_bytes().decode(), newline=""))
    assert row == {"seq": "9", "time": expected["time"], "path": HOSTILE, "hash": ""}
    assert result.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError):
        run("SELECT nothing FROM log", "-o", result, log)
    assert result.read_text().startswith("seq,")
    run(sql, "--format", "parquet", "-o", result, log)
    with duckdb.connect() as database:
        stored = database.execute(
            f"SELECT seq, path, typeof(time) FROM read_parquet('{result}')"
        ).fetchall()
    assert stored == [(9, HOSTILE, "TIMESTAMP WITH TIME ZONE")]
    content = log.read_bytes()
    with pytest.raises(UsageError, match="is the log itself"):
        run(sql, "-o", log, log)
    assert log.read_bytes() == content
    assert sorted(one.name for one in tmp_path.iterdir() if "data.log" not in one.name) == [
        "result"
    ]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", 'SQL: Parser Error: syntax error at or near "SELEC"'),
        ("", "SQL: expected one SELECT"),
        ("SELECT 1; SELECT 2", "SQL: expected one SELECT"),
        ("SELECT nothing FROM log", "SQL: Binder Error: Referenced column"),
        ("SELECT * FROM other", "SQL: Catalog Error: Table with name other does not exist"),
        ("SELECT CAST(op AS INTEGER) FROM log", "SQL: Conversion Error"),
        ("SELECT error('\x1b[31m\nx')", "SQL: Invalid Input Error"),
    ],
)
def test_errors_are_one_line(log: Path, sql: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        run("", "-f", "-", log, stdin=sql.encode())
    assert "\n" not in str(caught.value)


def test_sql_does_nothing_but_look(log: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    before = {one: one.read_bytes() for one in tmp_path.iterdir()}
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        port = server.getsockname()[1]
        for sql in (
            f"SELECT * FROM read_text('{secret}')", f"SELECT * FROM '{secret}'",
            f"SELECT * FROM glob('{tmp_path}/*')", "SELECT * FROM read_text('/proc/self/environ')",
            f"SELECT * FROM read_csv('http://127.0.0.1:{port}/x')",
            f"COPY log TO '{tmp_path}/new'", f"COPY (SELECT 1) TO '{secret}'",
            # One of these is the log itself, which DuckDB may open.
            *(f"WITH x AS (COPY (SELECT 1) TO '{path}' (USE_TMP_FILE false)) SELECT * FROM x"
              for path in (secret, log, *(f"/proc/self/fd/{fd}" for fd in range(3, 12)))),
            f"EXPLAIN ANALYZE COPY (SELECT 1) TO '{secret}' (USE_TMP_FILE false)",
            f"ATTACH '{tmp_path}/new.db'", f"EXPORT DATABASE '{tmp_path}/new'", "INSTALL httpfs",
            "LOAD httpfs", "SET enable_external_access = true", "DROP VIEW log",
            f"FROM query($$COPY (SELECT 1) TO '{tmp_path}/new'$$)", "SELECT * FROM sections",
            "PRAGMA temp_directory='/'", "SELECT 1; COPY (SELECT 1) TO '/tmp/new'",
        ):  # fmt: skip
            with pytest.raises(UsageError):
                run(sql, "--no-rotated", log)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert {one: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_process_that_asks_has_given_up_writing(tmp_path: Path) -> None:
    """DuckDB is not trusted alone: what its settings allow, the kernel still refuses."""
    (tmp_path / "own").mkdir()
    target = tmp_path / "target"
    target.write_text("as it was")

    calls: tuple[tuple[Callable[[Path], None], Path], ...] = (
        (os.unlink, target), (os.mkdir, tmp_path / "new"),
        (lambda path: os.truncate(path, 0), target),
    )  # fmt: skip

    def attempts() -> Iterator[str]:
        if not forbid_writing(except_below=str(tmp_path / "own")):
            yield "unsupported"
            return
        duckdb.sql(f"COPY (SELECT 1 AS a) TO '{tmp_path}/own/new' (FORMAT csv)")
        for path in (target, tmp_path / "new", f"/proc/self/fd/{fd}"):
            try:
                duckdb.sql(f"COPY (SELECT 1 AS a) TO '{path}' (USE_TMP_FILE false)")
            except duckdb.Error as error:
                yield str(error)
        for call, where in calls:
            try:
                call(where)
            except PermissionError as error:
                yield str(error)
        with socket.socket() as client:
            yield os.strerror(client.connect_ex(("127.0.0.1", 9)))

    fd = os.open(target, os.O_RDONLY)
    try:
        refusals = list(in_child(attempts))
    finally:
        os.close(fd)
    if refusals == ["unsupported"]:
        pytest.skip("this kernel has no Landlock")
    assert (tmp_path / "own/new").read_text() == "a\n1\n"
    assert len(refusals) == 7
    assert all("ermission denied" in one for one in refusals), refusals
    assert target.read_text() == "as it was"


def test_without_duckdb(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'fusevol\[analytics\]'"):
        run("SELECT 1", log)


def asked(sql: str, path: Path) -> tuple[list[dict[str, Any]], Skipped]:
    tally = Tally()
    with (
        tempfile.TemporaryDirectory() as directory,
        opened([str(path)], with_rotated=False) as sections,
    ):
        files = plain_files(sections, Filter(), directory, tally, [])
        with answered(sql, files or [os.devnull], Filter(), {}, directory) as answer:
            return list(map(json.loads, answer.json())), tally.skipped


@settings(max_examples=25, deadline=None)
@given(records=st.lists(RECORDS, min_size=1, max_size=4))
@example(records=[make(1, path=HOSTILE, to="/\0", name="'; DROP", ino=2**64 - 1)])
def test_every_key_comes_out_as_it_is(records: list[AccessRecord]) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(text(*records))
        found, skipped = asked("SELECT * FROM log", Path(file.name))
    assert skipped.count == 0
    for record, row in zip(records, found, strict=True):
        for key in AccessRecord.__struct_fields__:
            # The text of a gap's begin need not be a time in these records.
            if key != "since":
                assert row[key] == to_document(record).get(key), key


JUNK: Final = st.sampled_from(
    [
        b"", b"  ", b"nonsense", b"\0" * 50, encode(make(5))[:-9], encode(make(5))[9:],
        encode(make(5)) * 2, encode(make(5)).replace(b"write", b"wr\xffte"), b"{}", b"[1]", b"null",
        encode(make(5)).replace(b'"op"', b'"OP"'), encode(make(5)).replace(b":5,", b':"5",'),
        encode(make(5))[:-1] + b",}", encode(make(5))[:-1] + b"\t}",
        encode(make(5)).replace(b'"us":5', b'"us":-5'), b"2026-11-23T10:00:00.000001Z 5 data",
        b'{"@timestamp":"2026-11-23T10:00:00.000001Z"}', encode(make(5)) + b"\r",
        encode(make(5, path="/" + "x" * 2_000_000)),
    ]
)  # fmt: skip
LINES: Final = st.lists(
    JUNK
    | st.binary(max_size=30).map(lambda noise: noise.replace(b"\n", b""))
    | st.builds(
        lambda name, seq: encoder(name)(make(seq)), st.sampled_from(LogFormat), st.integers(1, 999)
    )
)


@settings(max_examples=30, deadline=None)
@given(lines=LINES, end=st.sampled_from([b"", b"\n"]))
@example(lines=[encode(make(1)), encode(make(2))[:-9], encode(make(3))], end=b"\n")
def test_what_is_no_record_is_told_as_by_other_commands(lines: list[bytes], end: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(b"\n".join(lines) + end)
        expected = Skipped()
        seqs = [record.seq for _number, _line, record in read(file.name, expected)]
        found, skipped = asked("SELECT seq FROM log", Path(file.name))
    assert [row["seq"] for row in found] == seqs
    assert skipped.count == expected.count
    assert [one.number for one in skipped.first[:1]] == [one.number for one in expected.first[:1]]


def test_line_that_is_being_written_is_for_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "data.log"
    path.write_bytes(text(make(1), make(2)) + encode(make(3))[:-20])
    with answered("SELECT seq FROM log", [str(path)], Filter(), {}, str(tmp_path)) as answer:
        assert list(answer.json()) == [b'{"seq":1}', b'{"seq":2}']


def test_help_teaches() -> None:
    output = CliRunner().invoke(log_command, ["query", "--help"]).output
    assert sum("fusevol log query " in text for text in output.splitlines()) >= 4
    assert max(map(len, output.splitlines())) <= 88
