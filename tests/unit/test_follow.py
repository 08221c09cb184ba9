import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Final

import pytest

from fusevol.errors import NotFoundError
from fusevol.logs import follow as follow_module
from fusevol.logs.follow import GrowingLog, follow
from fusevol.logs.lines import MAX_LINE_BYTES, LogFile
from fusevol.logs.log_files import rotated
from fusevol.logs.reader import Predicate, Skipped
from fusevol.record.record import AccessRecord, encode
from tests.patience import PATIENCE_S
from tests.served import wait_until

TIME: Final = "2026-11-23T10:00:00.000000Z"


def line(seq: int, path: str = "/report.txt", volume: str = "data") -> bytes:
    record = AccessRecord(
        time=TIME, seq=seq, volume=volume, op="read", path=path, result="ok", us=5
    )
    return encode(record) + b"\n"


def append(path: Path, *parts: bytes) -> None:
    with path.open("ab") as file:
        file.write(b"".join(parts))


class Follower:
    """Follows a log in a thread, and tells what it sees."""

    def __init__(self, path: Path, count: int | None = 0, keep: Predicate | None = None) -> None:
        self.skipped = Skipped()
        self._seen: SimpleQueue[tuple[bytes, AccessRecord]] = SimpleQueue()
        self._entries = follow(str(path), count, keep or (lambda _record: True), self.skipped)
        self._is_over = threading.Event()
        self._looks = 0
        self._thread = threading.Thread(target=self._run)

    def begin(self) -> None:
        self._thread.start()

    def sleep(self, _seconds: float) -> None:
        """Be where it waits between two looks, for much less than it would."""
        self._looks += 1
        time.sleep(0.002)

    def _run(self) -> None:
        for line, record in self._entries:
            self._seen.put((line, record))
            if self._is_over.is_set():
                return

    def next(self, count: int) -> list[int]:
        """The numbers of the next records."""
        return [self._seen.get(timeout=PATIENCE_S)[1].seq for _ in range(count)]

    def next_line(self) -> bytes:
        return self._seen.get(timeout=PATIENCE_S)[0]

    def look(self) -> None:
        """Wait until it has looked for something new, from now on."""
        # One may be under way already.
        enough = self._looks + 2
        wait_until(lambda: self._looks >= enough, "a look at the log")

    def sees_nothing(self) -> bool:
        self.look()
        return self._seen.empty()

    def end(self, log: Path) -> None:
        self._is_over.set()
        while self._thread.is_alive():
            # It looks up only when there is something to see.
            append(log, line(999_999))
            self._thread.join(0.05)


StartFollowing = Callable[..., Follower]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "data.log"
    path.touch()
    return path


@pytest.fixture
def start(log: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartFollowing]:
    """What starts the one follower of a test."""
    followers: list[Follower] = []

    def start_following(count: int | None = 0, keep: Predicate | None = None) -> Follower:
        assert followers == []
        follower = Follower(log, count, keep)
        followers.append(follower)
        monkeypatch.setattr("fusevol.logs.follow.time", SimpleNamespace(sleep=follower.sleep))
        follower.begin()
        return follower

    yield start_following
    for follower in followers:
        follower.end(log)


def test_records_come_as_they_are_written(log: Path, start: StartFollowing) -> None:
    append(log, line(1), line(2), line(3))
    follower = start(2)
    assert follower.next(2) == [2, 3]
    append(log, line(4))
    assert follower.next(1) == [4]
    append(log, line(5), line(6))
    assert follower.next_line() + b"\n" == line(5)
    assert follower.next_line() + b"\n" == line(6)
    assert follower.sees_nothing()


def test_all_from_the_beginning(log: Path, start: StartFollowing) -> None:
    append(log, *map(line, range(1, 20_000)))
    follower = start(None)
    assert follower.next(19_999) == list(range(1, 20_000))


def test_nothing_old(log: Path, start: StartFollowing) -> None:
    append(log, line(1), line(2))
    follower = start(0)
    assert follower.sees_nothing()
    append(log, line(3))
    assert follower.next(1) == [3]


def test_only_what_is_wanted(log: Path, start: StartFollowing) -> None:
    append(log, *map(line, range(1, 10)))
    follower = start(2, lambda record: record.seq % 3 == 0)
    assert follower.next(2) == [6, 9]
    append(log, *map(line, range(10, 20)))
    assert follower.next(3) == [12, 15, 18]


def test_half_a_line_waits_for_its_end(log: Path, start: StartFollowing) -> None:
    append(log, line(1), line(2)[:30])
    follower = start(5)
    assert follower.next(1) == [1]
    assert follower.sees_nothing()
    append(log, line(2)[30:-1])
    assert follower.sees_nothing()
    append(log, b"\n", line(3)[:1])
    assert follower.next(1) == [2]
    append(log, line(3)[1:])
    assert follower.next(1) == [3]
    assert follower.skipped.count == 0


def test_half_a_line_is_taken_back(log: Path, start: StartFollowing) -> None:
    # What the writer does after a write(2) that the full disk cut short.
    append(log, line(1))
    follower = start(5)
    assert follower.next(1) == [1]
    append(log, line(2)[:40])
    assert follower.sees_nothing()
    os.truncate(log, len(line(1)))
    assert follower.sees_nothing()
    append(log, line(2, path="/another.txt"))
    assert follower.next_line() + b"\n" == line(2, path="/another.txt")
    assert follower.skipped.count == 0


def test_renamed_and_made_anew(log: Path, start: StartFollowing) -> None:
    append(log, line(1))
    follower = start(1)
    assert follower.next(1) == [1]
    with log.open("ab", buffering=0) as old:
        log.rename(log.with_suffix(".log.1"))
        old.write(line(2))
        assert follower.next(1) == [2]
        log.touch()
        # The writer still holds the old file: logrotate has not told it yet.
        follower.look()
        old.write(line(3))
        append(log, line(4))
        assert follower.next(2) == [3, 4]
    append(log, line(5))
    assert follower.next(1) == [5]
    assert follower.sees_nothing()


def test_replaced_by_a_log_that_begins_anew(log: Path, start: StartFollowing) -> None:
    append(log, *map(line, range(1, 100)))
    follower = start(1)
    assert follower.next(1) == [99]
    log.unlink()
    append(log, line(1), line(2))
    assert follower.next(2) == [1, 2]


def test_torn_end_of_a_renamed_log(log: Path, start: StartFollowing) -> None:
    append(log, line(1))
    follower = start(1)
    assert follower.next(1) == [1]
    append(log, line(2), line(3)[:20])
    log.rename(log.with_suffix(".log.1"))
    append(log, line(3))
    assert follower.next(2) == [2, 3]
    assert follower.skipped.count == 1
    assert follower.skipped.first[0].number == 3


def test_renamed_many_times_between_two_looks(log: Path, start: StartFollowing) -> None:
    append(log, line(1))
    follower = start(1)
    assert follower.next(1) == [1]
    append(log.with_suffix(".log.9.gz"), b"\x1f\x8b\n")
    for seq in range(2, 300, 3):
        append(log, line(seq), line(seq + 1))
        log.rename(log.with_suffix(f".log.{seq}"))
        append(log, line(seq + 2))
    assert follower.next(300) == list(range(2, 302))
    assert follower.sees_nothing()
    assert follower.skipped.count == 0


def test_renamed_while_it_is_looked_for(
    log: Path, start: StartFollowing, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(log, line(1))
    follower = start(1)
    assert follower.next(1) == [1]

    def list_and_rotate(path: str) -> list[str]:
        monkeypatch.undo()
        listed = rotated(path)
        log.rename(log.with_suffix(".log.2"))
        append(log, line(4))
        return listed

    monkeypatch.setattr("fusevol.logs.follow.rotated", list_and_rotate)
    log.rename(log.with_suffix(".log.1"))
    append(log, line(2), line(3))
    assert follower.next(3) == [2, 3, 4]


def test_renamed_many_times_before_anything_new(log: Path, start: StartFollowing) -> None:
    append(log, line(1))
    follower = start(0, lambda record: record.seq > 1)
    assert follower.sees_nothing()
    for seq in range(2, 20):
        log.rename(log.with_suffix(f".log.{seq}"))
        append(log, line(seq))
    assert follower.next(18) == list(range(2, 20))


def test_renamed_twice_right_after_a_look(
    log: Path, start: StartFollowing, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(log, line(1))
    follower = start(1)
    assert follower.next(1) == [1]
    stat = os.stat

    def rotate_and_stat(path: Path | str) -> os.stat_result:
        if path == str(log):
            monkeypatch.undo()
            append(log, line(2))
            log.rename(log.with_suffix(".log.2"))
            append(log, line(3))
            log.rename(log.with_suffix(".log.1"))
            append(log, line(4))
        return stat(path)

    monkeypatch.setattr(os, "stat", rotate_and_stat)
    assert follower.next(3) == [2, 3, 4]


def test_logs_of_others_are_not_taken_for_renamed_ones(log: Path, start: StartFollowing) -> None:
    for number in range(1, 50):
        old = log.with_suffix(f".log.{number}")
        append(old, line(2, path="/old"))
        os.utime(old, (0, 0))
    append(log, line(1))
    follower = start(1)
    assert follower.next(1) == [1]
    for number in range(1, 50):
        append(log.with_suffix(f".logs{number}"), line(2, path="/other", volume="other"))
    log.rename(log.with_suffix(".log.0"))
    append(log, line(1, path="/new"))
    assert follower.next_line() + b"\n" == line(1, path="/new")
    assert follower.sees_nothing()


def test_rotation_under_load(log: Path, start: StartFollowing) -> None:
    """Each record once and in order, while a writer rotates as logrotate does."""
    follower = start(None)

    def write() -> None:
        fd = os.open(log, os.O_WRONLY | os.O_APPEND)
        for seq in range(1, 20_001):
            os.write(fd, line(seq))
            if seq % 1000 == 0:
                log.rename(log.with_suffix(f".log.{seq}"))
                log.touch()
            if seq % 1000 == 50:
                os.close(fd)
                fd = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.close(fd)

    writer = threading.Thread(target=write)
    writer.start()
    assert follower.next(20_000) == list(range(1, 20_001))
    writer.join()
    assert follower.sees_nothing()
    assert follower.skipped.count == 0


def test_truncated(log: Path, start: StartFollowing) -> None:
    append(log, *map(line, range(1, 100)))
    follower = start(1)
    assert follower.next(1) == [99]
    os.truncate(log, 0)
    follower.look()
    append(log, line(100))
    assert follower.next(1) == [100]
    assert follower.sees_nothing()


def test_truncated_and_grown_beyond_the_old_size(log: Path, start: StartFollowing) -> None:
    append(log, line(1), line(2))
    follower = start(None)
    assert follower.next(2) == [1, 2]
    with log.open("r+b") as file:
        # One moment, as it may be between two looks.
        file.truncate(0)
        file.write(b"".join(map(line, range(3, 100))))
    assert follower.next(97) == list(range(3, 100))
    assert follower.skipped.count == 0


def test_malformed_lines_are_found_again(log: Path, start: StartFollowing) -> None:
    append(log, line(1), b"nonsense\n", line(2))
    follower = start(1)
    assert follower.next(1) == [2]
    append(log, b"more\n\n", line(3), b"and more\n", line(4))
    assert follower.next(2) == [3, 4]
    assert [bad.number for bad in follower.skipped.first] == [4, 7]


def test_too_long_line(log: Path, start: StartFollowing) -> None:
    append(log, line(1))
    follower = start(1)
    assert follower.next(1) == [1]
    # Its end alone would be a record.
    append(log, b"x" * (5 * MAX_LINE_BYTES // 2))
    assert follower.sees_nothing()
    append(log, line(2), line(3))
    assert follower.next(1) == [3]
    assert follower.skipped.count == 1
    assert follower.skipped.first[0].number == 2


def test_pipe_ends(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(line(1) + line(2),))
    writer.start()
    entries = follow(str(pipe), 1, lambda _record: True, Skipped())
    assert [record.seq for _, record in entries] == [1, 2]
    writer.join()


def test_missing_log(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        next(follow(str(tmp_path / "none.log"), 1, lambda _record: True, Skipped()))


def test_a_file_whose_number_changes_while_it_is_looked_for_is_found(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets a name that was looked at before, and another one gets its own."""
    append(log, line(1))
    shifts: list[str] = []

    def shifting(path: str) -> LogFile:
        if path == f"{log}.9" and not shifts:
            shifts.append(path)
            for number in range(10, 0, -1):
                os.rename(f"{log}.{number}", f"{log}.{number + 1}")
        return LogFile(path)

    with GrowingLog(str(log), Skipped()) as growing:
        assert [record.seq for _, record in growing.appended()] == [1]
        log.rename(f"{log}.10")
        for number in range(9, 0, -1):
            append(Path(f"{log}.{number}"), line(11 - number))
        append(log, line(11))
        monkeypatch.setattr(follow_module, "LogFile", shifting)
        assert growing.successor(growing.at_path()) is None, "nothing can be told meanwhile"
        assert shifts
        successor = growing.successor(growing.at_path())
        assert successor is not None
        growing.go_on_with(successor)
        assert [record.seq for _, record in growing.appended()] == [2]
