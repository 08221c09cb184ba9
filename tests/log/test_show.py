"""`fusevol log show`: everything that matches, from all files of a log, whatever they hold."""

import bz2
import gzip
import json
import lzma
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import zstandard
from click.testing import CliRunner, Result

from fusevol.cli.log.group import log as log_command
from fusevol.errors import FusevolError, NotFoundError, UnsupportedError
from fusevol.names import encode_name
from fusevol.record.formats import ecs, juicefs, ocsf
from fusevol.record.record import AccessRecord, decode, encode
from tests.patience import PATIENCE_S
from tests.served import runs, wait_until

FUSEVOL: Final = [sys.executable, "-c", "from fusevol.cli.main import main; main()"]

Compress = Callable[[bytes], bytes]

COMPRESSIONS: Final[dict[str, Compress]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def line(seq: int, op: str = "read", path: str = "/a.txt", volume: str = "data") -> bytes:
    minutes, seconds = divmod(seq, 60)
    hours, minutes = divmod(minutes, 60)
    record = AccessRecord(
        time=f"2026-11-{1 + hours // 24:02d}T{hours % 24:02d}:{minutes:02d}:{seconds:02d}.000000Z",
        seq=seq, volume=volume, op=op, path=path, result="ok", us=5, uid=1000, pid=4711,
    )  # fmt: skip
    return encode(record) + b"\n"


def lines(*seqs: int) -> bytes:
    return b"".join(map(line, seqs))


def run(*arguments: object, stdin: bytes = b"") -> Result:
    result = CliRunner().invoke(log_command, ["show", *map(str, arguments)], input=stdin)
    if isinstance(result.exception, FusevolError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def shown(*arguments: object, stdin: bytes = b"") -> list[int]:
    output = run("--json", *arguments, stdin=stdin).stdout
    return [json.loads(text)["seq"] for text in output.splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "data.log"
    path.write_bytes(lines(*range(21, 31)))
    return path


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("rotation", [".1", "-20261124", "-20261124-1764000000", "-2026-11-24"])
def test_rotated_files_come_first(log: Path, rotation: str, suffix: str) -> None:
    older = log.with_name(f"data.log{rotation}{suffix}")
    older.write_bytes(COMPRESSIONS[suffix](lines(*range(11, 21))))
    assert shown(log) == list(range(11, 31))
    assert shown("--no-rotated", log) == list(range(21, 31))
    assert shown("--no-rotated", older) == list(range(11, 21))


def test_files_come_in_the_order_of_their_records(log: Path) -> None:
    # By their names and by their times of modification they would come in other orders.
    for rotation, seq in ((".10.gz", 2), (".2.gz", 3), (".9.gz", 1)):
        log.with_name(f"data.log{rotation}").write_bytes(gzip.compress(line(seq)))
    assert shown(log)[:4] == [1, 2, 3, 21]
    assert shown(log, *sorted(log.parent.iterdir(), reverse=True)) == [1, 2, 3, *range(21, 31)]


def test_log_that_was_begun_anew(log: Path) -> None:
    log.write_bytes(line(1).replace(b"T00", b"T22") + line(2).replace(b"T00", b"T22"))
    log.with_name("data.log.1").write_bytes(lines(3, 4))
    log.with_name("data.log.2").write_bytes(lines(1, 2))
    assert shown(log) == [1, 2, 3, 4, 1, 2]


def test_what_only_looks_like_a_rotated_file(log: Path) -> None:
    log.with_name("data.log-2").write_bytes(line(1, volume="other"))
    log.with_name("data.log.old").write_bytes(line(2))
    log.with_name("data.log1").write_bytes(line(3))
    log.with_name("data.log.3").mkdir()
    assert shown(log) == list(range(21, 31))


def test_log_that_was_just_rotated(log: Path) -> None:
    log.rename(log.with_name("data.log.1"))
    log.touch()
    assert shown(log) == list(range(21, 31))


def test_file_that_is_being_compressed(log: Path) -> None:
    older = log.with_name("data.log.1")
    older.write_bytes(lines(1, 2))
    compressed = log.with_name("data.log.1.gz")
    for data in (gzip.compress(lines(1)), gzip.compress(lines(1, 2))[:20], b""):
        compressed.write_bytes(data)
        result = run("--json", log)
        assert result.stdout_bytes == lines(1, 2, *range(21, 31))
        assert "skipped" not in result.stderr
    # One that was left by an older rotation has other records.
    compressed.write_bytes(gzip.compress(lines(0)))
    assert shown(log) == [0, 1, 2, *range(21, 31)]


def test_volumes_come_one_after_the_other(log: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.log"
    other.write_bytes(line(2, volume="other"))
    other.with_name("other.log.1").write_bytes(line(1, volume="other"))
    assert shown(log, other) == [*range(21, 31), 1, 2]
    assert shown(other, log) == [1, 2, *range(21, 31)]


def test_standard_input_stays_where_it_is_named(log: Path) -> None:
    assert shown("-", stdin=lines(7, 8)) == [7, 8]
    assert shown("--no-rotated", log, "-", stdin=lines(7)) == [*range(21, 31), 7]


def test_missing_log(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none\.log: no such file"):
        run(tmp_path / "none.log")


def test_zstd_without_its_module(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.with_name("data.log.2.zst").write_bytes(COMPRESSIONS[".zst"](line(1)))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UnsupportedError, match="module zstandard is missing; install it, or use"):
        run(log)
    assert shown("--no-rotated", log) == list(range(21, 31))


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSIONS if suffix])
def test_damaged_compressed_file(log: Path, suffix: str) -> None:
    older = log.with_name(f"data.log.1{suffix}")
    older.write_bytes(b"this was never compressed, whatever its name says")
    result = run("--json", log)
    assert result.stdout_bytes == log.read_bytes()
    assert f"1 line skipped, first at line 1 of {older}: damaged: " in result.stderr


def test_compressed_file_that_ends_early(log: Path) -> None:
    older = log.with_name("data.log.1.gz")
    text = b"".join(line(seq, path=f"/{random.Random(seq).random()}") for seq in range(1, 5000))
    older.write_bytes(gzip.compress(text)[:-20_000])
    found = run("--json", log)
    seqs = [json.loads(one)["seq"] for one in found.stdout.splitlines()]
    last_read = seqs[-11]
    assert seqs == [*range(1, last_read + 1), *range(21, 31)]
    # The end of the data cuts a line, too.
    assert f"first at line {last_read + 1} of {older}: " in found.stderr


BAD_LINES: Final = {
    "garbage": b"\x1b[31mnonsense\n",
    "half a line": line(5)[:60] + b"\n",
    "wrong encoding": line(5).replace(b"a.txt", b"\xff\xfe"),
    "too long": line(5, path="/" + "x" * 2_000_000),
    "no record": b'{"time":"now"}\n',
    "NUL bytes": bytes(5000) + b"\n",
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES)
def test_bad_lines_are_counted_and_nothing_else_is_lost(log: Path, bad: bytes) -> None:
    log.write_bytes(lines(1, 2) + b"\n" + bad + lines(3) + bad + lines(4) + bad.rstrip(b"\n"))
    result = run("--json", log)
    assert result.stdout_bytes == lines(1, 2, 3, 4)
    assert result.stderr.startswith(f"fusevol: 3 lines skipped, first at line 4 of {log}: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.rstrip("\n").isprintable()


def test_formats(log: Path) -> None:
    records = [decode(text) for text in log.read_bytes().splitlines()]
    for name, converter in (("ecs", ecs), ("ocsf", ocsf), ("juicefs", juicefs)):
        output = run("--format", name, log).stdout_bytes
        found = [converter.decode(text) for text in output.splitlines()]
        for record in records:
            record.gid = 0 if name == "juicefs" else None
        assert found == records
    assert run("--format", "json", log).stdout_bytes == log.read_bytes()
    assert run(log).stdout.splitlines()[0].split()[2:5] == ["read", "/a.txt", "ok"]


def test_record_that_a_format_cannot_tell_is_skipped(log: Path) -> None:
    log.write_bytes(line(1) + line(2).replace(b"2026-11-01T", b"yesterday ") + line(3))
    result = run("--format", "ecs", log)
    assert len(result.stdout.splitlines()) == 2
    assert f"1 line skipped, first at line 2 of {log}: expected a time such as" in result.stderr


HOSTILE: Final = encode_name(
    b'/\x1b]0;x\x07\n{"time":"forged"}\r\xc2\x9b31m\xe2\x80\xae\xff/\x00 - OK <0.1>'
)


@pytest.mark.parametrize("format_", ["text", "json", "ecs", "ocsf", "juicefs"])
def test_names_cannot_steer_a_terminal_or_forge_lines(log: Path, format_: str) -> None:
    log.write_bytes(line(1, path=HOSTILE, volume=HOSTILE))
    assert run("--format", format_, log).stdout_bytes.count(b"\n") == 1
    output = on_terminal("--format", format_, "--color", "never", log)
    assert output.endswith("\r\n")
    assert output.removesuffix("\r\n").isprintable()


def on_terminal(*arguments: object) -> str:
    ours, theirs = pty.openpty()
    subprocess.run(
        [*FUSEVOL, "log", "show", *map(str, arguments)],
        stdout=theirs, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    os.close(theirs)
    output = b""
    try:
        while block := os.read(ours, 65536):
            output += block
    except OSError:
        pass  # EIO: nobody holds the other side any more.
    os.close(ours)
    return output.decode()


LONG: Final = 90_000
"""Records of a log that is read in several sections, by several processes."""


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "data.log"
    ops = ("read", "write", "unlink", "getattr")
    with path.open("wb") as file:
        for seq in range(1, LONG + 1):
            file.write(line(seq, ops[seq % 4], f"/dir{seq % 7}/file{seq % 1000}.txt"))
    return path


def command(name: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*FUSEVOL, "log", name, *map(str, arguments)],
        capture_output=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip


def test_long_log_is_shown_as_it_is(long_log: Path) -> None:
    assert long_log.stat().st_size > 12_000_000
    assert command("show", "--json", long_log).stdout == long_log.read_bytes()


@pytest.mark.parametrize(
    "filters",
    [
        ["--op", "unlink", "--op", "write"],
        ["--path", "/dir3", "--since", "2026-11-01T10:00Z"],
        ["--path", "file99?.txt", "--until", "2026-11-01T10:00Z", "--uid", "1000"],
        ["--pid", "1"],
    ],
)
def test_filters_mean_what_they_mean_to_tail(long_log: Path, filters: list[str]) -> None:
    expected = command("tail", "-n", "all", "--json", *filters, long_log).stdout
    assert command("show", "--json", *filters, long_log).stdout == expected


def test_skipped_lines_of_a_long_log(long_log: Path, tmp_path: Path) -> None:
    texts = long_log.read_bytes().splitlines(keepends=True)
    texts[70_000] = texts[30_000] = b"nonsense\n"
    texts[30_001] = texts[30_001][:-2] + b"\n"
    path = tmp_path / "data.log"
    path.write_bytes(b"".join(texts))
    done = command("show", "--json", "--op", "unlink", path)
    message = b"fusevol: 3 lines skipped, first at line 30001 of "
    assert done.stderr.startswith(message)


def test_reader_that_has_seen_enough(long_log: Path) -> None:
    with subprocess.Popen(
        [*FUSEVOL, "log", "show", "--json", long_log],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline())["seq"] == 1
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 1
        assert process.stderr.read() == b""


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def showing(long_log: Path) -> subprocess.Popen[bytes]:
    """Show a log to somebody who reads nothing; its workers have begun."""
    process = subprocess.Popen(
        [*FUSEVOL, "log", "show", "--json", long_log],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    process.stdout.read(1)
    return process


needs_processors = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="one processor: one process reads"
)


@needs_processors
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_command(long_log: Path, number: signal.Signals) -> None:
    with showing(long_log) as process:
        workers = children(process.pid)
        assert len(workers) >= 2
        process.send_signal(number)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode in (130, -number)
        wait_until(lambda: not any(map(runs, workers)), "workers end")


@needs_processors
def test_worker_that_is_killed_is_no_end_of_the_log(long_log: Path) -> None:
    with showing(long_log) as process:
        for worker in children(process.pid):
            os.kill(worker, signal.SIGKILL)
        _output, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert b"fusevol: a process that was reading the log exited unexpectedly" in errors


def test_pipe_is_shown_as_it_comes() -> None:
    with subprocess.Popen(
        [*FUSEVOL, "log", "show", "--json", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(line(1))
        process.stdin.flush()
        assert process.stdout.readline() == line(1)
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0


def test_line_that_is_being_written(log: Path) -> None:
    whole = log.read_bytes()
    log.write_bytes(whole[:-5])

    def write_the_rest() -> None:
        with log.open("ab") as file:
            file.write(whole[-5:])

    # While the first look at the file shows half a line, the second finds it whole.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", lambda _seconds: write_the_rest())
        result = run("--json", log)
    assert result.stdout_bytes == whole
    assert result.stderr == ""


def test_log_that_is_rotated_meanwhile(long_log: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.log"
    path.write_bytes(long_log.read_bytes())
    with subprocess.Popen(
        [*FUSEVOL, "log", "show", "--json", path], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        first = process.stdout.read(1)
        path.rename(path.with_name("data.log.1"))
        path.write_bytes(line(LONG + 1))
        assert first + process.stdout.read() == long_log.read_bytes()
