"""What reads a log says which numbers are missing in it, and nothing where none should be there."""

import gzip
import json
import subprocess
from pathlib import Path
from typing import Final

import pytest

from fusevol.record.record import AccessRecord, encode
from tests.served import FUSEVOL, fusevol

COMMANDS: Final = {
    "show": ("show",),
    "show --format ecs": ("show", "--format", "ecs"),
    "stats": ("stats",),
    "stats --json": ("stats", "--json", "--by", "path"),
    "query": ("query", "SELECT count(*) FROM log"),
}


def lines(*numbers: int, volume: str = "data", day: int = 24) -> bytes:
    return b"".join(
        encode(
            AccessRecord(
                time=f"2026-11-{day}T10:00:00.{seq:06d}Z", seq=seq, volume=volume,
                op="read" if seq % 2 else "write", path="/a", result="ok", us=5,
            )
        ) + b"\n"
        for seq in numbers
    )  # fmt: skip


def gap(seq: int, lost: int) -> bytes:
    record = AccessRecord(
        time="2026-11-24T11:00:00.000000Z", seq=seq, volume="data", op="gap", result="ok", us=0,
        lost=lost,
    )  # fmt: skip
    return encode(record) + b"\n"


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return COMMANDS[request.param]


def said(command: tuple[str, ...], *arguments: str | Path) -> str:
    return fusevol("log", *command, *arguments).stderr


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "data.log"


def test_within_a_file_and_between_two(log: Path, command: tuple[str, ...]) -> None:
    older = Path(f"{log}.1")
    older.write_bytes(lines(*range(5, 10)))
    log.write_bytes(lines(*range(11, 20), *range(41, 50)))
    between = f"between {older} and {log}; in all 22 records at 2 places"
    assert said(command, log) == f"fusevol: number 10 missing (1 record) {between}\n"
    assert said(command, "--no-rotated", log) == (
        f"fusevol: numbers 20-40 missing (21 records) in {log}\n"
    )
    older.unlink()
    Path(f"{log}.1.gz").write_bytes(gzip.compress(lines(*range(5, 10))))
    log.write_bytes(b"\n".join([b"nonsense", lines(*range(13, 20))]))
    assert f"numbers 10-12 missing (3 records) between {older}.gz and {log}\n" in said(command, log)


def test_what_a_gap_tells_is_not_missed(log: Path, command: tuple[str, ...]) -> None:
    log.write_bytes(lines(1, 2, 3) + gap(6, 2) + lines(7))
    assert said(command, log) == ""
    log.write_bytes(lines(1, 2, 3) + gap(7, 2) + lines(8))
    assert said(command, log) == f"fusevol: numbers 4-6 missing (3 records) in {log}\n"


def test_nothing_is_missing_elsewhere(log: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    # Volumes one after the other, and a log that was begun anew.
    log.write_bytes(lines(*range(7, 10)) + lines(*range(50, 60), volume="other"))
    other = tmp_path / "other.log"
    other.write_bytes(lines(*range(900, 1000), volume="third") + lines(1, 2, 3, volume="third"))
    assert said(command, log, other) == ""


def test_what_was_not_asked_for_is_not_missed(log: Path, command: tuple[str, ...]) -> None:
    log.write_bytes(lines(1, 2, 5, 6) + lines(*range(7, 10), day=25) + lines(12, day=26))
    whole = f"fusevol: numbers 3-4 missing (2 records) in {log}; in all 4 records at 2 places\n"
    assert said(command, log) == whole
    assert said(command, "--since", "2026-11-25", "--until", "2026-11-26", log) == ""
    if command[0] != "query":
        assert said(command, "--op", "write", log) == whole
        assert said(command, "--volume", "data", log) == whole
        assert said(command, "--volume", "other", log) == ""


def test_what_comes_through_a_pipe_may_have_been_chosen(
    log: Path, command: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [FUSEVOL, "log", *command, "-"], input=lines(1, 2, 9), capture_output=True, check=True,
        timeout=60,
    )  # fmt: skip
    assert done.stderr == b""


def test_in_json(log: Path) -> None:
    log.write_bytes(lines(1, 2, 5, 9))
    told = json.loads(fusevol("log", "stats", "--json", log).stdout)
    assert told["missing"] == 5
    assert told["holes"] == [
        {"volume": "data", "first": 3, "last": 4}, {"volume": "data", "first": 6, "last": 8}
    ]  # fmt: skip
