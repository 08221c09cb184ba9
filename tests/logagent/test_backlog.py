"""What a sink has not got yet is found wherever the log has been rotated to."""

import gzip
import os
from pathlib import Path

import pytest

from fusevol.accesslog.record import AccessRecord, encode
from fusevol.logagent.backlog import REMOVED, Backlog
from fusevol.logagent.positions import PositionsFile, seq_before


def record(seq: int) -> AccessRecord:
    return AccessRecord(
        time=f"2026-11-24T10:{seq // 60 % 60:02d}:{seq % 60:02d}.000000Z", seq=seq, volume="data",
        op="getattr", path=f"/{'x' * (seq % 50)}{seq}", result="ok", us=seq,
    )  # fmt: skip


def lines(first: int, last: int) -> bytes:
    return b"".join(encode(record(seq)) + b"\n" for seq in range(first, last + 1))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "data.log"


def numbers(backlog: Backlog, count: int = 100_000) -> list[int]:
    return [entry[1].seq for entry in backlog.take(count)]


def test_begins_behind_the_position_and_goes_on_with_what_comes(log: Path) -> None:
    log.write_bytes(lines(1, 5000))
    backlog = Backlog(str(log), 4321)
    assert numbers(backlog, 10) == list(range(4322, 4332))
    assert numbers(backlog) == list(range(4332, 5001))
    assert backlog.is_empty
    assert numbers(backlog) == []
    with log.open("ab") as file:
        file.write(lines(5001, 5002) + b'{"time')
        file.flush()
        assert numbers(backlog) == [5001, 5002]
    backlog.close()


@pytest.mark.parametrize("position", [0, 1, 999, 1000, 1001, 2500, 3999, 4000])
def test_across_files_that_were_rotated_before(log: Path, position: int) -> None:
    Path(f"{log}-20261124T100000.000.gz").write_bytes(gzip.compress(lines(1, 1000)))
    Path(f"{log}.2").write_bytes(lines(1001, 2000))
    Path(f"{log}.1").write_bytes(lines(2001, 3000))
    log.write_bytes(lines(3001, 4000))
    backlog = Backlog(str(log), position)
    assert numbers(backlog) == list(range(position + 1, 4001))
    backlog.close()


def test_the_log_was_rotated_and_nothing_came_since(log: Path) -> None:
    Path(f"{log}.1").write_bytes(lines(1, 10))
    log.touch()
    backlog = Backlog(str(log), 7)
    assert numbers(backlog) == [8, 9, 10]
    log.write_bytes(lines(11, 12))
    assert numbers(backlog) == [11, 12]
    backlog.close()


def test_rotated_and_compressed_more_than_once_since_the_last_look(log: Path) -> None:
    log.write_bytes(lines(1, 100))
    backlog = Backlog(str(log), 0)
    assert numbers(backlog, 50) == list(range(1, 51))
    os.rename(log, f"{log}.3")
    Path(f"{log}.2.gz").write_bytes(gzip.compress(lines(101, 200)))
    Path(f"{log}.1.gz").write_bytes(gzip.compress(lines(201, 300)))
    log.write_bytes(lines(301, 400))
    assert numbers(backlog) + numbers(backlog) == list(range(51, 401))
    backlog.close()


def test_what_was_removed_unsent_is_told(log: Path) -> None:
    log.write_bytes(lines(300, 310))
    backlog = Backlog(str(log), 120)
    entries = backlog.take(1000)
    gap = entries[0][1]
    assert (gap.op, gap.lost, gap.seq, gap.reason) == ("gap", 179, 299, REMOVED)
    assert [entry[1].seq for entry in entries[1:]] == list(range(300, 311))
    backlog.close()


def test_a_log_that_begins_anew_is_sent_from_its_beginning(log: Path) -> None:
    log.write_bytes(lines(1, 20))
    backlog = Backlog(str(log), 5000)
    assert numbers(backlog) == list(range(1, 21))
    log.unlink()
    log.write_bytes(lines(1, 3))
    assert numbers(backlog) == [1, 2, 3]
    backlog.close()


def test_a_new_sink_begins_with_the_mount(log: Path) -> None:
    log.write_bytes(lines(1, 100) + b"garbage\n")
    assert seq_before(str(log), record(42).time) == 41
    assert seq_before(str(log), "1970") == 0
    assert seq_before(str(log), "9999") == 100
    log.write_bytes(b"")
    assert seq_before(str(log), "2026") == 0


def test_positions_outlive_the_agent(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEVOL_STATE_DIRECTORY", str(tmp_path / "state"))
    positions = PositionsFile(str(log))
    assert positions.load() == {}
    positions.save({"journald": 17, "unix:/run/x": 3})
    positions.close()
    assert PositionsFile(str(log)).load() == {"journald": 17, "unix:/run/x": 3}
