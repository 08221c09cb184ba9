"""Reads and writes that follow one another become one record, and none is lost or told twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mounted.test_counters import snapshot, worker_of
from tests.patience import PROMPT_S
from tests.served import (
    Record,
    assert_no_gap_in_numbers,
    fusevol,
    needs_root,
    serve,
    wait_until,
)

pytestmark = needs_root

_TOO_FAR = 1 << 60
"""Behind what the host's file system can have, and not behind what the kernel lets pass."""


def _io(records: list[Record], op: str) -> list[tuple[int, int, int]]:
    """Position, bytes and number of operations of each record of reads or writes."""
    done = "bytes_read" if op == "read" else "bytes_written"
    return [(r["offset"], r[done], r.get("count", 1)) for r in records if r["op"] == op]


def _comm() -> str:
    return Path("/proc/self/comm").read_text().strip()


def test_what_ends_a_run(tmp_path: Path) -> None:
    with serve(tmp_path, "-o", "coalesce=30") as served:
        fd = os.open(served.mountpoint / "file", os.O_RDWR | os.O_CREAT)
        other = os.open(served.mountpoint / "file", os.O_RDONLY)
        for offset in (0, 10, 20, 100, 110):
            os.pwrite(fd, b"x" * 10, offset)
            os.pread(other, 5, offset // 2)  # on another handle: ends nothing
        os.pread(fd, 10, 0)
        os.pread(fd, 200, 10)
        os.fsync(fd)
        os.pwrite(fd, b"y" * 10, 120)
        os.ftruncate(fd, 130)
        os.pwrite(fd, b"y" * 10, 130)
        os.pwrite(fd, b"y" * 10, 140)
        assert [r["op"] for r in served.records()][-1] == "setattr", "comes later"
        os.close(fd)
        os.close(other)
        wait_until(lambda: [r["op"] for r in served.records()].count("release") == 2, "releases")
        counted = snapshot(served).operations
    records = served.records()
    assert_no_gap_in_numbers(records)
    order = [r["op"] for r in records if r["op"] in ("write", "fsync", "setattr", "release")]
    assert order == [
        "write", "write", "fsync", "write", "setattr", "write", "release", "release",
    ]  # fmt: skip
    assert _io(records, "write") == [(0, 30, 3), (100, 20, 2), (120, 10, 1), (130, 20, 2)]
    assert sorted(_io(records, "read")) == [(0, 15, 3), (0, 120, 2), (50, 10, 2)]
    for record in records:
        if record["op"] in ("read", "write"):
            assert ("since" in record) == ("count" in record)
            assert record.get("since", "") <= record["time"]
            assert record["comm"] == _comm()
    for op in ("read", "write"):
        assert counted[op].count == sum(count for _, _, count in _io(records, op))
        assert counted[op].us_total == sum(r["us"] for r in records if r["op"] == op)


def test_a_run_ends_in_time_and_a_failure_has_a_record_of_its_own(tmp_path: Path) -> None:
    with serve(tmp_path, "-o", "coalesce=0.3") as served:
        file = os.open(served.mountpoint / "file", os.O_WRONLY | os.O_CREAT)
        start = time.monotonic()
        os.write(file, b"x")
        os.write(file, b"x")
        wait_until(lambda: _io(served.records(), "write") == [(0, 2, 2)], "record")
        assert time.monotonic() - start < PROMPT_S
        os.write(file, b"x")
        with pytest.raises(OSError, match="too large"):
            os.pwrite(file, b"x", _TOO_FAR)
        os.write(file, b"x")
        os.close(file)
    writes = [(r["offset"], r["result"]) for r in served.records() if r["op"] == "write"]
    assert writes == [(0, "ok"), (2, "ok"), (_TOO_FAR, "EFBIG"), (3, "ok")]


def test_no_operation_is_lost_or_told_twice_when_workers_end(tmp_path: Path) -> None:
    """Also while records of runs are being written: a new run begins with every tenth write."""
    done: list[int] = []
    before_restart: list[int] = []
    with serve(tmp_path, "-o", "coalesce=30,exclude=op=lookup|getattr") as served:
        with (served.mountpoint / "file").open("wb", buffering=0) as file:
            position = 0
            for number in range(2000):
                position += 17 if number % 10 == 0 else 0
                os.pwrite(file.fileno(), b"%09d\n" % number, position)
                done.append(position)
                position += 10
                if number % 450 == 200:
                    before_restart.append(len(done))
                    if number > 1500:
                        fusevol("reload", served.mountpoint)
                    else:
                        os.kill(worker_of(served), signal.SIGKILL)
        served.await_released("/file")
    records = served.records()
    assert_no_gap_in_numbers(records)
    assert _told(records) == done
    restarts = [number for number, record in enumerate(records) if record["op"] == "restart"]
    told = [len(_told(records[:number])) for number in restarts]
    assert told == before_restart, "a run ends before the restart that ends it"
    assert all(r["path"] == "/file" and r["comm"] for r in records if r["op"] == "write")


def _told(records: list[Record]) -> list[int]:
    """Positions of the writes of ten bytes that the records stand for."""
    told = []
    for offset, size, count in _io(records, "write"):
        assert size == 10 * count
        told += [offset + 10 * number for number in range(count)]
    return told


def test_a_record_that_may_find_no_room_is_not_to_come_later(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "volume").mkdir()
    done = fusevol(
        "mount", tmp_path / "source", tmp_path / "volume", "--log", tmp_path / "log",
        "-o", "coalesce=1,on_log_failure=deny", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "exclude each other" in done.stderr


_WRITER = """
import sys
with open(sys.argv[1], "wb", buffering=0) as file:
    for _ in range(5):
        file.write(b"x" * 10)
    print("written", flush=True)
    sys.stdin.read()
"""


def test_a_mount_that_ends_with_its_worker_tells_what_was_gathered(tmp_path: Path) -> None:
    """The worker is stopped, so that it cannot write when the mount is ended by force."""
    with serve(tmp_path, "-o", "coalesce=30") as served:
        (served.mountpoint / "dir\n").mkdir()
        # Another process: to close the file takes an answer.
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, served.mountpoint / "dir\n/file"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as writer:  # fmt: skip
            try:
                assert writer.stdout
                assert writer.stdout.readline() == b"written\n"
                os.kill(worker_of(served), signal.SIGSTOP)
                fusevol("unmount", "--force", served.mountpoint)
            finally:
                writer.kill()
        wait_until(lambda: served.records()[-1]["op"] == "unmount", "end")
    *_, last, _unmount = served.records()
    assert (last["op"], last["path"], last["count"]) == ("write", "/dir\n/file", 5)
    assert (last["offset"], last["bytes_written"]) == (0, 50)
    assert_no_gap_in_numbers(served.records())
