"""What a sink has not got yet is found wherever the log has been rotated to."""

import gzip
import os
from pathlib import Path

import pytest

from fusevol.logagent.backlog import BEGUN_ANEW, REMOVED, Backlog, Entry, position_after
from fusevol.logagent.positions import Position, PositionsFile
from tests.logagent.lines import lines, record


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "data.log"


def after(seq: int) -> Position:
    """The position of a sink that has got record `seq`."""
    return position_after(record(seq)) if seq else Position(0)


def opened(log: Path, position: Position, newest: int = 0) -> Backlog:
    return Backlog(str(log), position, lambda: newest)


def rest(backlog: Backlog) -> list[Entry]:
    """All that there is, to the second time that there is no more."""
    found: list[Entry] = []
    for _ in range(2):
        found += backlog.take(100_000)
        while not backlog.is_empty:
            found += backlog.take(100_000)
    return found


def told(entries: list[Entry]) -> list[int | tuple[int, int, str | None]]:
    """Numbers of records; of gaps, how many they tell of, their number and the reason."""
    return [
        (one.lost or 0, one.seq, one.reason) if one.op == "gap" else one.seq for _, one in entries
    ]


def numbers(backlog: Backlog, count: int = 100_000) -> list[int]:
    return [entry[1].seq for entry in backlog.take(count)]


def test_begins_behind_the_position_and_goes_on_with_what_comes(log: Path) -> None:
    log.write_bytes(lines(1, 5000))
    backlog = opened(log, after(4321))
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
    backlog = opened(log, after(position))
    assert numbers(backlog) == list(range(position + 1, 4001))
    backlog.close()


def test_the_log_was_rotated_and_nothing_came_since(log: Path) -> None:
    Path(f"{log}.1").write_bytes(lines(1, 10))
    log.touch()
    backlog = opened(log, after(7))
    assert numbers(backlog) == [8, 9, 10]
    log.write_bytes(lines(11, 12))
    assert numbers(backlog) == [11, 12]
    backlog.close()


def test_rotated_and_compressed_more_than_once_since_the_last_look(log: Path) -> None:
    log.write_bytes(lines(1, 100))
    backlog = opened(log, after(0))
    assert numbers(backlog, 50) == list(range(1, 51))
    os.rename(log, f"{log}.3")
    Path(f"{log}.2.gz").write_bytes(gzip.compress(lines(101, 200)))
    Path(f"{log}.1.gz").write_bytes(gzip.compress(lines(201, 300)))
    log.write_bytes(lines(301, 400))
    assert numbers(backlog) + numbers(backlog) == list(range(51, 401))
    backlog.close()


def test_what_was_removed_unsent_is_told(log: Path) -> None:
    log.write_bytes(lines(300, 310))
    with opened(log, after(120)) as backlog:
        entries = rest(backlog)
    assert told(entries) == [(179, 299, REMOVED), *range(300, 311)]
    assert entries[0][1].since == record(120).time
    assert entries[0][1].volume == "data"


@pytest.mark.parametrize("position", [0, 5])
def test_a_hole_in_the_files_is_told_wherever_it_is(log: Path, position: int) -> None:
    # Rotated twice while the receiver was away, by logrotate that keeps one.
    Path(f"{log}.1").write_bytes(lines(11, 15))
    log.touch()
    with opened(log, after(position)) as backlog:
        assert told(rest(backlog)) == [(10 - position, 10, REMOVED), *range(11, 16)]
        log.write_bytes(lines(16, 17))
        assert told(rest(backlog)) == [16, 17]


def test_holes_between_several_files_and_in_a_compressed_one_that_is_damaged(log: Path) -> None:
    whole = gzip.compress(lines(1, 2000))
    Path(f"{log}.4.gz").write_bytes(whole[: len(whole) // 2])
    Path(f"{log}.2").write_bytes(lines(2001, 2010))
    Path(f"{log}.1").write_bytes(lines(2015, 2020) + b"nothing\n" + lines(2023, 2024))
    log.write_bytes(lines(2030, 2031))
    with opened(log, after(3)) as backlog:
        entries = rest(backlog)
    seen = {one.seq for _, one in entries if one.op != "gap"}
    lost = sum(one.lost or 0 for _, one in entries if one.op == "gap")
    assert len(seen) + lost == 2031 - 3
    assert told(entries)[-13:] == [
        2009, 2010, (4, 2014, REMOVED), *range(2015, 2021), (2, 2022, REMOVED), 2023, 2024,
        (5, 2029, REMOVED), 2030, 2031,
    ][-13:]  # fmt: skip


def test_an_idle_log_tells_what_is_known_to_be_missing(log: Path) -> None:
    log.touch()
    with opened(log, after(7), newest=20) as backlog:
        assert told(rest(backlog)) == [(13, 20, REMOVED)]
        log.write_bytes(lines(21, 22))
        assert told(rest(backlog)) == [21, 22]
    with opened(log, Position(20), newest=20) as backlog:
        assert told(rest(backlog)) == [21, 22]


def test_what_is_known_to_be_there_and_is_there_is_not_missing(log: Path) -> None:
    Path(f"{log}.1").write_bytes(lines(1, 20))
    log.touch()
    with opened(log, after(7), newest=20) as backlog:
        assert told(rest(backlog)) == [*range(8, 21)]


def test_a_log_that_begins_anew_is_sent_from_its_beginning(log: Path) -> None:
    log.write_bytes(lines(1, 20))
    with opened(log, after(5000)) as backlog:
        assert told(rest(backlog)) == [*range(1, 21)]
        log.unlink()
        log.write_bytes(lines(1, 3))
        assert told(rest(backlog)) == [1, 2, 3]


def test_what_the_earlier_log_had_is_told_when_a_log_begins_anew(log: Path) -> None:
    log.write_bytes(lines(4, 6))
    with opened(log, after(5000), newest=5010) as backlog:
        assert told(rest(backlog)) == [(13, 3, BEGUN_ANEW), 4, 5, 6]
    log.write_bytes(b"")
    Path(f"{log}.1").write_bytes(lines(1, 3))
    with opened(log, after(3), newest=3) as backlog:
        assert told(rest(backlog)) == []


def other_lines(first: int, last: int) -> bytes:
    """Records of another day."""
    return lines(first, last).replace(b"2026-11-24", b"2026-11-29")


@pytest.mark.parametrize("position", [1, 20, 49, 50, 99])
def test_a_log_that_began_anew_and_has_grown_beyond_the_position(log: Path, position: int) -> None:
    Path(f"{log}.1").write_bytes(other_lines(1, 50))
    log.write_bytes(other_lines(51, 100))
    with opened(log, after(position), newest=position) as backlog:
        assert told(rest(backlog)) == [*range(1, 101)]
    with opened(log, position_after(rest(opened(log, after(0)))[position - 1][1])) as backlog:
        assert told(rest(backlog)) == [*range(position + 1, 101)]


def test_a_log_that_is_put_in_place_anew_is_not_sent_again(log: Path) -> None:
    log.write_bytes(lines(1, 20))
    with opened(log, after(0)) as backlog:
        assert told(rest(backlog)) == [*range(1, 21)]
        other = log.with_name("other")
        other.write_bytes(lines(1, 22))
        os.rename(other, log)
        assert told(rest(backlog)) == [21, 22]


def test_a_file_that_is_removed_while_it_is_read_is_read_to_its_end(log: Path) -> None:
    old = Path(f"{log}.1.gz")
    old.write_bytes(gzip.compress(lines(1, 5000)))
    log.write_bytes(lines(5001, 5010))
    with opened(log, after(0)) as backlog:
        assert numbers(backlog, 10) == list(range(1, 11))
        old.unlink()
        assert told(rest(backlog)) == [*range(11, 5011)]


def test_positions_outlive_the_agent(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEVOL_STATE_DIRECTORY", str(tmp_path / "state"))
    positions = PositionsFile(str(log))
    assert positions.load() == {}
    kept = {"journald": after(17), "unix:/run/x": Position(3, newest=9)}
    positions.save(kept)
    assert positions.load() == kept
    positions.close()
    positions = PositionsFile(str(log))
    assert positions.load() == kept
    (file,) = (tmp_path / "state/logs").glob("*.json")
    file.write_text('{"log":"x","sinks":{"journald":17}}')
    assert positions.load() == {"journald": Position(17)}
    for damaged in ("", "{", '{"log":"x","sinks":{"journald":"x"}}'):
        file.write_text(damaged)
        assert positions.load() is None
    positions.close()
