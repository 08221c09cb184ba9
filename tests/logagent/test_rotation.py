"""Rotation while a volume is used: no record is lost and none is there twice."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from fusevol.linux import mounts
from fusevol.logagent import status
from fusevol.logagent.retention import Retention
from fusevol.logagent.rotation import Rotation
from fusevol.logs.log_files import rotated_by_fusevol
from fusevol.logs.reader import Skipped
from fusevol.logs.sections import opened
from fusevol.options.log import Compression, LogOptions
from fusevol.record.record import AccessRecord, encode
from tests.patience import PATIENCE_S
from tests.served import fusevol, needs_root, serve, wait_until


@pytest.fixture(autouse=True)
def _directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEVOL_STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("FUSEVOL_RUNTIME_DIRECTORY", str(tmp_path / "run"))


def records_of(log: Path) -> list[AccessRecord]:
    """Return the records of all files of a log."""
    skipped = Skipped()
    with opened([str(log)], with_rotated=True) as sections:
        found = [
            record
            for section in sections
            for batch in section.batches(skipped)
            for record in batch.records
            if record is not None
        ]
    assert skipped.count == 0, skipped.first
    return found


def make_files(directory: Path, count: int, stop: threading.Event) -> int:
    done = 0
    while not stop.is_set() and done < count:
        (directory / f"{threading.get_ident()}-{done}").mkdir()
        done += 1
    return done


def under_load(
    directory: Path, is_enough: Callable[[], bool], meanwhile: Callable[[], None] | None = None
) -> int:
    """Make directories from four threads until it is enough; return how many were made."""
    stop, made = threading.Event(), []
    threads = [
        threading.Thread(target=lambda: made.append(make_files(directory, 100_000, stop)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    try:
        while not is_enough():
            if meanwhile is not None:
                meanwhile()
            time.sleep(0.1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return sum(made)


def check_all_there(log: Path, made: int) -> None:
    found = records_of(log)
    assert [record.seq for record in found] == list(range(1, len(found) + 1))
    directories = [r.path for r in found if r.op == "mkdir" and r.result == "ok"]
    assert len(directories) == len(set(directories)) == made


@needs_root
def test_no_record_is_lost_or_doubled_under_load(tmp_path: Path) -> None:
    with serve(tmp_path, "-o", "rotate_size=100K,compress=zstd") as served:
        made = under_load(served.mountpoint, lambda: len(rotated_by_fusevol(str(served.log))) > 6)
        wait_until(
            lambda: all(path.endswith(".zst") for path in rotated_by_fusevol(str(served.log))),
            "compression",
        )
    files = rotated_by_fusevol(str(served.log))
    check_all_there(served.log, made)
    assert {os.stat(path).st_mode & 0o777 for path in files} == {0o600}


@needs_root
def test_logrotate_under_load(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    with serve(tmp_path) as served:
        rules.write_text(
            f"{served.log} {{\n rotate 1000\n nocreate\n missingok\n compress\n delaycompress\n"
            f" su root root\n postrotate\n  {fusevol_command()} reload --logs\n endscript\n}}\n"
        )

        def rotate() -> None:
            subprocess.run(
                ["logrotate", "-f", "-s", tmp_path / "logrotate.state", rules],
                check=True, timeout=PATIENCE_S, capture_output=True,
            )  # fmt: skip

        made = under_load(
            served.mountpoint, lambda: len(list(tmp_path.glob("access.log.*.gz"))) > 6, rotate
        )
    check_all_there(served.log, made)


def fusevol_command() -> str:
    from tests.served import FUSEVOL

    return FUSEVOL


@needs_root
def test_an_agent_that_was_killed_is_replaced(tmp_path: Path) -> None:
    with serve(tmp_path, "-o", "rotate_age=1s") as served:

        def pid() -> int:
            told = status.read(str(served.log))
            return told.pid if told else 0

        wait_until(pid, "the agent")
        first = pid()
        os.kill(first, 9)
        wait_until(lambda: pid() not in (0, first), "another agent")
        before = len(rotated_by_fusevol(str(served.log)))
        (served.mountpoint / "one").mkdir()
        wait_until(lambda: len(rotated_by_fusevol(str(served.log))) > before, "its rotation")
        told = fusevol("status", "--json").stdout
        assert msgspec.json.decode(told)[0]["agent"]["pid"] == pid()
        served.unmount()
        last = pid()
        wait_until(lambda: not last or not os.path.exists(f"/proc/{last}"), "the agent's end")
    found = records_of(served.log)
    assert [record.seq for record in found] == list(range(1, len(found) + 1))
    assert found[-1].op == "unmount"


def test_what_an_agent_renamed_that_was_killed_then_is_begun_anew(tmp_path: Path) -> None:
    asked: list[None] = []
    log = tmp_path / "data.log"
    rotation = Rotation(str(log), LogOptions(rotate_size=4096), lambda: asked.append(None))
    assert not rotation.go_on()
    assert len(asked) == 1
    log.write_bytes(b"x" * 5000)
    assert rotation.go_on()
    assert names(log) == [rotated_by_fusevol(str(log))[0].removeprefix(str(log))]
    assert len(asked) == 2
    rotation.leave_a_file()
    assert log.read_bytes() == b""


def fill(log: Path, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        Path(f"{log}{name}").write_bytes(b"x" * size)


def names(log: Path) -> list[str]:
    return sorted(path.name.removeprefix(log.name) for path in log.parent.glob(f"{log.name}*"))


def _of(day: int) -> str:
    return f"-202611{day:02d}T000000.000"


def test_keeps_so_many_files_and_touches_no_others(tmp_path: Path) -> None:
    log = tmp_path / "data.log"
    fill(log, {"": 5, _of(1): 5, _of(2) + ".zst": 5, _of(3): 5, "-2": 5, ".1": 5, _of(1) + "x": 5})
    Retention(str(log), LogOptions(rotate_size=4096, keep_files=2)).go_on()
    assert names(log) == ["", "-2", _of(1) + "x", _of(2) + ".zst", _of(3), ".1"]


def test_keeps_them_so_long(tmp_path: Path) -> None:
    log = tmp_path / "data.log"
    fill(log, {"": 5, _of(1): 5, _of(2): 5})
    os.utime(f"{log}{_of(1)}", (time.time() - 100, time.time() - 100))
    Retention(str(log), LogOptions(rotate_size=4096, keep_age=60)).go_on()
    assert names(log) == ["", _of(2)]


def test_keeps_the_quota(tmp_path: Path) -> None:
    log = tmp_path / "data.log"
    fill(log, {"": 3000, _of(1): 4000, _of(2): 4000, _of(3): 4000})
    removed: list[str] = []
    retention = Retention(str(log), LogOptions(quota=8000), removed.append)
    retention.go_on()
    assert names(log) == ["", _of(3)]
    assert removed == [f"{log}{_of(1)}", f"{log}{_of(2)}"]
    assert (retention.files, retention.total) == (1, 7000)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounts.mount("tmpfs", str(tmp_path), "tmpfs", 0, "size=1M")
    yield tmp_path
    mounts.umount(str(tmp_path), mounts.MNT_DETACH)


@needs_root
def test_a_disk_that_fills_up(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = small_disk / "data.log"
    retention = Retention(
        str(log), LogOptions(rotate_size=4096, space_warn=600_000, space_act=300_000)
    )
    fill(log, {"": 100_000, _of(1): 300_000})
    retention.go_on()
    assert not caplog.messages
    fill(log, {_of(2): 200_000})
    retention.go_on()
    retention.go_on()
    assert [message for message in caplog.messages if "free up space" in message] == caplog.messages
    assert len(caplog.messages) == 1
    fill(log, {_of(3): 300_000})
    retention.go_on()
    assert names(log) == ["", _of(2), _of(3)]
    assert f"removed data.log{_of(1)}" in caplog.messages[-1]
    (small_disk / "other").write_bytes(b"x" * 380_000)
    retention.go_on()
    assert names(log) == ["", _of(3)] or names(log) == [""]
    (small_disk / "more").write_bytes(b"x" * (retention.free - 10_000))
    retention.go_on()
    retention.go_on()
    assert names(log) == [""]
    ends = [message for message in caplog.messages if "on_log_failure applies" in message]
    assert len(ends) == 1
    (small_disk / "other").unlink()
    (small_disk / "more").unlink()
    retention.go_on()
    assert "free again" in caplog.messages[-1]


def test_compression_keeps_content_owner_and_time(tmp_path: Path) -> None:
    log = tmp_path / "data.log"
    record = AccessRecord(time="t", seq=1, volume="v", op="open", result="ok", us=1)
    content = encode(record) + b"\n"
    rotated = Path(f"{log}{_of(1)}")
    rotated.write_bytes(content * 1000)
    rotated.chmod(0o640)
    os.utime(rotated, ns=(1, 1_700_000_000_000_000_001))
    Path(tmp_path / f".{rotated.name}.zst.part").write_bytes(b"left by one that was killed")
    Retention(str(log), LogOptions(rotate_size=4096, compress=Compression.ZSTD)).go_on()
    assert [path.name for path in tmp_path.iterdir()] == [f"{rotated.name}.zst"]
    compressed = os.stat(f"{rotated}.zst")
    assert compressed.st_mode & 0o777 == 0o640
    assert compressed.st_mtime_ns == 1_700_000_000_000_000_001
    assert compressed.st_size < 1000
    log.touch()
    assert len(records_of(log)) == 1000
