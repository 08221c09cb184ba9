import io
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusevol.errors import FusevolError, NotFoundError, NotPermittedError
from fusevol.logs import lines
from fusevol.logs.lines import MAX_LINE_BYTES
from fusevol.logs.reader import Skipped, SkippedLine, last, last_record, read
from fusevol.record.record import AccessRecord, encode
from tests.patience import PROMPT_S


def line(seq: int, **fields: str | int) -> bytes:
    record = AccessRecord(
        time="2026-11-23T10:00:00.000000Z", seq=seq, volume="data", op="read", result="ok", us=5
    )
    for name, value in fields.items():
        setattr(record, name, value)
    return encode(record) + b"\n"


def numbers(entries: Sequence[tuple[bytes, AccessRecord]]) -> list[int]:
    return [record.seq for _line, record in entries]


def everything(record: AccessRecord) -> bool:
    return True


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "data.log"


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines begin and end in other blocks than their neighbours."""
    monkeypatch.setattr(lines, "_BLOCK_BYTES", 7)


def read_all(path: Path) -> tuple[list[tuple[int, int]], Skipped]:
    skipped = Skipped()
    return [(number, record.seq) for number, _, record in read(str(path), skipped)], skipped


def test_records_come_with_their_lines_and_numbers(log: Path) -> None:
    log.write_bytes(line(1) + line(2))
    skipped = Skipped()
    entries = list(read(str(log), skipped))
    assert [(number, record.seq) for number, _, record in entries] == [(1, 1), (2, 2)]
    assert [text + b"\n" for _, text, _ in entries] == [line(1), line(2)]
    assert skipped == Skipped()


@pytest.mark.usefixtures("small_blocks")
def test_lines_across_blocks(log: Path) -> None:
    log.write_bytes(b"".join(map(line, range(1, 50))))
    assert read_all(log)[0] == [(n, n) for n in range(1, 50)]
    assert numbers(last(str(log), 3, everything, Skipped())) == [47, 48, 49]


def test_malformed_lines_are_skipped_counted_and_found_again(log: Path) -> None:
    log.write_bytes(b"nonsense\n" + line(1) + b"\n  \r\n" + b'{"seq":"x"}\n' + line(2) + b'{"ti')
    entries, skipped = read_all(log)
    assert entries == [(2, 1), (6, 2)]
    assert skipped.count == 3
    assert [bad.number for bad in skipped.first] == [1, 5, 7]
    assert skipped.first[0] == SkippedLine(str(log), 1, skipped.first[0].reason)
    assert "JSON is malformed" in skipped.first[0].reason


def test_only_the_first_malformed_lines_are_remembered(log: Path) -> None:
    log.write_bytes(b"x\n" * 1000)
    backwards = Skipped()
    assert not last(str(log), 5, everything, backwards)
    for skipped in (read_all(log)[1], backwards):
        assert skipped.count == 1000
        assert [bad.number for bad in skipped.first] == list(range(1, 11))


def test_last_line_without_newline_is_a_record_if_it_is_whole(log: Path) -> None:
    log.write_bytes(line(1) + line(2).rstrip())
    assert read_all(log)[0] == [(1, 1), (2, 2)]
    assert numbers(last(str(log), 1, everything, Skipped())) == [2]
    found = last_record(str(log))
    assert found is not None
    assert found.seq == 2


@pytest.mark.parametrize("length", [MAX_LINE_BYTES + 1, 3 * MAX_LINE_BYTES + 77])
def test_too_long_line_is_skipped(log: Path, length: int) -> None:
    empty = line(2, path="/").rstrip()
    too_long = line(2, path="/" + "a" * (length - len(empty)))
    assert len(too_long) == length + 1
    log.write_bytes(line(1) + too_long + line(3))
    entries, skipped = read_all(log)
    assert entries == [(1, 1), (3, 3)]
    assert [bad.number for bad in skipped.first] == [2]
    skipped = Skipped()
    assert numbers(last(str(log), 5, everything, skipped)) == [1, 3]
    assert [bad.number for bad in skipped.first] == [2]


def test_longest_line_that_is_read(log: Path) -> None:
    empty = line(2, path="/").rstrip()
    log.write_bytes(line(1) + line(2, path="/" + "a" * (MAX_LINE_BYTES - len(empty))) + line(3))
    assert read_all(log)[0] == [(1, 1), (2, 2), (3, 3)]
    assert numbers(last(str(log), 2, everything, Skipped())) == [2, 3]


def test_memory_stays_bounded(log: Path) -> None:
    with log.open("wb") as file:
        file.truncate(256 * MAX_LINE_BYTES)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + line(1) + b"\0" * 1000)
    before = peak_kib()
    assert read_all(log)[0] == [(2, 1)]
    assert numbers(last(str(log), 9, everything, Skipped())) == [1]
    assert peak_kib() - before < 32 * 1024


def peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def test_last_counts_what_is_wanted_only(log: Path) -> None:
    log.write_bytes(b"".join(map(line, range(1, 100))))
    entries = last(str(log), 3, lambda record: record.seq % 10 == 0, Skipped())
    assert numbers(entries) == [70, 80, 90]
    assert [text + b"\n" for text, _ in entries] == [line(70), line(80), line(90)]
    assert last(str(log), 0, everything, Skipped()) == []
    assert numbers(last(str(log), 1000, everything, Skipped())) == list(range(1, 100))


def test_last_reads_no_further_than_needed(log: Path) -> None:
    log.write_bytes(b"nonsense\n" + b"".join(map(line, range(1, 100))))
    skipped = Skipped()
    last(str(log), 99, everything, skipped)
    assert skipped.count == 0
    last(str(log), 100, everything, skipped)
    assert skipped.first[0].number == 1


content = st.lists(
    st.one_of(
        st.integers(1, 10**6).map(line),
        st.binary(max_size=20).map(lambda noise: noise + b"\n"),
        st.just(b"\n"),
    )
).map(b"".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content, st.binary(max_size=5), st.integers(1, 300))
def test_backwards_is_forwards_backwards(
    tmp_path: Path, beginning: bytes, end: bytes, block_bytes: int
) -> None:
    path = tmp_path / "any.log"
    path.write_bytes(beginning + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_BLOCK_BYTES", block_bytes)
        forwards, backwards = Skipped(), Skipped()
        entries = [(text, record.seq) for _, text, record in read(str(path), forwards)]
        found = last(str(path), 10**6, everything, backwards)
    assert [(text, record.seq) for text, record in found] == entries
    assert backwards == forwards


@pytest.mark.parametrize(
    ("text", "seq"),
    [
        (b"", None),
        (b"\n\n", None),
        (b"nonsense", None),
        (line(1), 1),
        (line(1) + line(2), 2),
        (line(1) + line(2)[:-1], 2),
        (line(1) + line(2)[:-2], 1),
        (line(1) + line(2)[:10], 1),
        (line(1) + line(2)[:10] + b"\n\n", 1),
        (line(1) + b"\0" * 4096, 1),
        (line(1) + b"x" * (2 * MAX_LINE_BYTES), 1),
    ],
)
def test_last_record(log: Path, text: bytes, seq: int | None) -> None:
    log.write_bytes(text)
    found = last_record(str(log))
    assert (found.seq if found else None) == seq


def test_last_record_of_a_huge_file_is_quick(log: Path) -> None:
    with log.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + line(7))
    started = time.monotonic()
    found = last_record(str(log))
    assert found is not None
    assert found.seq == 7
    assert time.monotonic() - started < PROMPT_S


def test_last_record_waits_for_no_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert last_record(str(tmp_path / "pipe")) is None
    assert last_record("/dev/null") is None


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def give(text: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))

    give(line(1) + b"x\n" + line(2) + line(3))
    skipped = Skipped()
    assert [(number, record.seq) for number, _, record in read("-", skipped)] == [
        (1, 1), (3, 2), (4, 3),
    ]  # fmt: skip
    assert skipped.first[0].number == 2
    give(line(1) + b"x\n" + line(2) + line(3))
    assert numbers(last("-", 2, everything, skipped)) == [2, 3]
    assert skipped.count == 2


def test_pipe_is_opened_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = b"".join(map(line, range(1, 5000)))
    writer = threading.Thread(target=pipe.write_bytes, args=(text,))
    writer.start()
    assert numbers(last(str(pipe), 2, everything, Skipped())) == [4998, 4999]
    writer.join()


@pytest.mark.parametrize("function", [last_record, lambda path: list(read(path, Skipped()))])
def test_missing_log(tmp_path: Path, function: object) -> None:
    path = tmp_path / "none.log"
    assert callable(function)
    with pytest.raises(NotFoundError, match=f"{path}: no such file"):
        function(str(path))


def test_directory_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(FusevolError, match="it is a directory"):
        read_all(tmp_path)


def test_log_of_somebody_else(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    log.write_bytes(line(1))
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NotPermittedError, match=f"{log}: permission denied; run as"):
        last(str(log), 1, everything, Skipped())


def test_unreadable_disk(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    log.write_bytes(line(1))
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(FusevolError, match=f"{log}: Input/output error"):
        last_record(str(log))
