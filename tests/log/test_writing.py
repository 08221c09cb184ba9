"""How the log is written: opened, continued, rotated, and what happens when it cannot be."""

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.served import (
    FUSEVOL,
    Record,
    Served,
    assert_no_gap_in_numbers,
    fusevol,
    is_mounted,
    needs_root,
    read_log,
    runs,
    serve,
    status_of,
    wait_until,
)

pytestmark = needs_root


def _writes(records: list[Record]) -> list[int]:
    """Return where the writes that took effect wrote."""
    return [
        record["offset"] for record in records
        if record["op"] == "write" and record["result"] == "ok"
    ]  # fmt: skip


class Load:
    """Writes one byte after another at ever new offsets: each write has one record of its own."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        self.count = 0

    def write(self, count: int = 1) -> None:
        for _ in range(count):
            os.pwrite(self._fd, b"x", self.count)
            self.count += 1

    def close(self) -> None:
        os.close(self._fd)


@contextmanager
def _loading(path: Path) -> Iterator[Load]:
    load = Load(path)
    try:
        yield load
    finally:
        load.close()


# --- the file ---


def test_a_new_log_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with serve(tmp_path) as mount:
            assert mount.log.stat().st_mode & 0o7777 == 0o600
    finally:
        os.umask(before)


def test_an_existing_log_is_appended_to_and_keeps_its_mode(tmp_path: Path) -> None:
    with serve(tmp_path) as mount:
        pass
    content = mount.log.read_bytes()
    mount.log.chmod(0o640)
    with serve(tmp_path):
        pass
    assert mount.log.read_bytes().startswith(content)
    assert mount.log.stat().st_mode & 0o7777 == 0o640


def test_numbers_go_on_over_remounts(tmp_path: Path) -> None:
    for _ in range(3):
        with serve(tmp_path) as mount:
            (mount.mountpoint / "d").mkdir()
            (mount.mountpoint / "d").rmdir()
    records = read_log(tmp_path / "access.log")
    assert_no_gap_in_numbers(records)
    assert [r["op"] for r in records if r["op"] in ("mount", "unmount")] == ["mount", "unmount"] * 3


def test_numbers_go_on_after_a_rotation_between_two_mounts(tmp_path: Path) -> None:
    with serve(tmp_path) as mount:
        pass
    rotated = tmp_path / "access.log.1"
    mount.log.rename(rotated)
    with serve(tmp_path):
        pass
    assert_no_gap_in_numbers(read_log(rotated, mount.log))


def test_a_torn_line_is_ended_and_numbers_go_on(tmp_path: Path) -> None:
    with serve(tmp_path) as mount:
        pass
    records = mount.records()
    whole = mount.log.read_bytes()
    torn = b'{"time":"2026-01-01T00:00:00.000000Z","seq":99,"vol'
    mount.log.write_bytes(whole + torn)
    with serve(tmp_path):
        pass
    content = mount.log.read_bytes()
    assert content.startswith(whole + torn + b"\n{")
    lines = content.splitlines()
    assert json.loads(lines[len(records) + 1])["seq"] == len(records) + 1
    said = fusevol("log", "tail", "-n", "all", mount.log)
    assert "1 line skipped" in said.stderr


def test_two_mounts_cannot_share_a_log(tmp_path: Path) -> None:
    with serve(tmp_path) as mount:
        other = tmp_path / "other"
        other.mkdir()
        said = fusevol("mount", other, other, "--log", mount.log, check=False)
        assert said.returncode == 1
        assert str(mount.log) in said.stderr
        assert "in use by another mount" in said.stderr
        assert not is_mounted(other)
        # The first goes on unharmed.
        (mount.mountpoint / "d").mkdir()
    assert_no_gap_in_numbers(mount.records())


def test_without_a_log_nothing_is_written(tmp_path: Path) -> None:
    with serve(tmp_path, "--log", "none") as mount:
        (mount.mountpoint / "d").mkdir()
        assert mount.status()["log"] == "none"
        said = fusevol("log", "tail", "--mount", mount.mountpoint, check=False)
        assert said.returncode == 3
        assert "no log file" in said.stderr
    assert (mount.source / "d").is_dir()
    assert not mount.log.exists()
    assert not Path("/none").exists()


@pytest.fixture
def piped(tmp_path: Path) -> Iterator["tuple[subprocess.Popen[bytes], Path]"]:
    """A mount in the foreground, its records going to a pipe."""
    source, mountpoint = tmp_path / "source", tmp_path / "volume"
    source.mkdir()
    mountpoint.mkdir()
    with subprocess.Popen(
        [FUSEVOL, "mount", "-f", "--log", "-", source, mountpoint], stdout=subprocess.PIPE
    ) as process:
        try:
            wait_until(lambda: is_mounted(mountpoint), "mount")
            yield process, mountpoint
        finally:
            if is_mounted(mountpoint):
                fusevol("unmount", "--lazy", mountpoint, check=False)
            if process.poll() is None:
                process.terminate()
            process.wait(timeout=PATIENCE_S)


def test_records_go_to_a_pipe(piped: "tuple[subprocess.Popen[bytes], Path]") -> None:
    process, mountpoint = piped
    with _loading(mountpoint / "f") as load:
        load.write(100)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE_S)
    records = [json.loads(line) for line in output.splitlines()]
    assert_no_gap_in_numbers(records)
    assert _writes(records) == list(range(100))
    assert (records[0]["op"], records[-1]["op"]) == ("mount", "unmount")
    assert process.returncode == 0


def test_a_reader_that_goes_away_does_not_stop_the_volume(
    piped: "tuple[subprocess.Popen[bytes], Path]",
) -> None:
    process, mountpoint = piped
    assert process.stdout is not None
    process.stdout.close()
    with _loading(mountpoint / "f") as load:
        load.write(100)
    assert (mountpoint / "f").stat().st_size == 100
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE_S) == 0


# --- rotation ---

_LOAD = """\
import os, select, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
number = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    os.pwrite(fd, b"x", number)
    number += 1
print(number)
"""


def _under_load(path: Path, rotate: Callable[[], None], is_enough: Callable[[int], bool]) -> int:
    """Rotate until it is enough while another process writes; return how many writes it made.

    Args:
        rotate: rotates once.
        is_enough: is asked with how many writes were made so far.
    """
    command = [sys.executable, "-c", _LOAD, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until(path.exists, "load")
            while not is_enough(path.stat().st_size):
                rotate()
            output, _ = process.communicate("\n")
        finally:
            process.kill()
    return int(output)


def test_a_renamed_log_is_opened_anew_on_hangup(tmp_path: Path) -> None:
    rotated: list[Path] = []
    with serve(tmp_path) as mount:
        daemon = mount.status()["pid"]

        def rotate() -> None:
            target = tmp_path / f"access.log.{len(rotated):03}"
            mount.log.rename(target)
            rotated.append(target)
            time.sleep(0.003)
            os.kill(daemon, signal.SIGHUP)
            wait_until(mount.log.exists, "new log")

        count = _under_load(
            mount.mountpoint / "f", rotate, lambda count: len(rotated) > 50 and count > 500
        )
    assert mount.log.stat().st_mode & 0o7777 == 0o600
    records = read_log(*rotated, mount.log)
    assert_no_gap_in_numbers(records)
    assert _writes(records) == list(range(count))


def test_logrotate_loses_nothing(tmp_path: Path) -> None:
    shipped = (Path(__file__).parents[2] / "systemd" / "fusevol.logrotate").read_text()
    configuration = tmp_path / "logrotate.conf"
    with serve(tmp_path) as mount:
        # The shipped rules, for this log alone.
        text = shipped.replace("/var/log/fusevol/*.log", str(mount.log))
        text = text.replace("fusevol reload", f"{FUSEVOL} reload {mount.mountpoint}")
        assert str(mount.log) in text
        assert FUSEVOL in text
        configuration.write_text(text)
        configuration.chmod(0o600)

        def rotated() -> list[Path]:
            files = tmp_path.glob("access.log.*")
            return sorted(files, key=lambda path: int(path.suffixes[1][1:] or 0), reverse=True)

        def rotate() -> None:
            command = ["logrotate", "--force", "-s", str(tmp_path / "state"), str(configuration)]
            subprocess.run(command, check=True, timeout=PATIENCE_S)
            # The shipped rules keep 30 files; fewer rotations than that keep all records.
            time.sleep(0.1)

        count = _under_load(mount.mountpoint / "f", rotate, lambda _count: len(rotated()) >= 6)
    files = rotated()
    assert [path.suffix for path in files[:-1]] == [".gz"] * (len(files) - 1)
    for path in files[:-1]:
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    records = read_log(*(tmp_path / path.name.removesuffix(".gz") for path in files), mount.log)
    assert_no_gap_in_numbers(records)
    assert _writes(records) == list(range(count))


def test_the_old_log_goes_on_if_no_new_one_can_be_made(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    moved = tmp_path / "moved"
    with (
        serve(tmp_path, log=directory / "access.log") as mount,
        _loading(mount.mountpoint / "f") as load,
    ):
        load.write(10)
        directory.rename(moved)
        os.kill(mount.status()["pid"], signal.SIGHUP)
        time.sleep(0.3)
        load.write(10)
        moved.rename(directory)
        os.kill(mount.status()["pid"], signal.SIGHUP)
        time.sleep(0.3)
        load.write(10)
    assert_no_gap_in_numbers(mount.records())
    assert _writes(mount.records()) == list(range(30))


# --- a full disk ---


class Disk:
    """A small file system of its own for the log."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._filler = root / "filler"

    def fill(self) -> None:
        """Take all the room that is left."""
        with self._filler.open("ab", buffering=0) as filler:
            for size in (65536, 4096, 1):
                try:
                    while filler.write(b"x" * size) == size:
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def make_room(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    root = tmp_path / "disk"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", root], check=True)
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", root], check=True)


def _wait_for_the_next_attempt() -> None:
    """A log that cannot be written is tried again a few times a second."""
    time.sleep(0.3)


def test_under_continue_operations_go_on_and_the_loss_is_counted(
    tmp_path: Path, disk: Disk
) -> None:
    with serve(tmp_path, log=disk.root / "access.log") as mount:
        with _loading(mount.mountpoint / "f") as load:
            for _ in range(3):
                load.write(50)
                disk.fill()
                load.write(300)
                disk.make_room()
                _wait_for_the_next_attempt()
                load.write(50)
        assert (mount.source / "f").stat().st_size == load.count == 1200
    records = mount.records()
    assert_no_gap_in_numbers(records)
    gaps = [record for record in records if record["op"] == "gap"]
    assert len(gaps) == 3
    assert len(_writes(records)) + sum(gap["lost"] for gap in gaps) == load.count
    # Each gap stands where the operations are missing, with their number.
    known = -1
    missing = 0
    for record in records:
        if record["op"] == "gap":
            missing = record["lost"]
            assert record["since"] <= record["time"]
            assert "No space left" in record["reason"]
        elif record["op"] == "write":
            assert record["offset"] == known + 1 + missing
            known, missing = record["offset"], 0
    messages = fusevol("log", "tail", "-n", "all", "--op", "unlink", mount.log).stdout
    assert messages.count("gap") == 3


def test_a_loss_until_the_end_is_told_when_there_is_room_at_unmount(
    tmp_path: Path, disk: Disk
) -> None:
    with (
        serve(tmp_path, log=disk.root / "access.log") as mount,
        _loading(mount.mountpoint / "f") as load,
    ):
        disk.fill()
        load.write(300)
        disk.make_room()
    records = mount.records()
    assert_no_gap_in_numbers(records)
    (gap,) = [record for record in records if record["op"] == "gap"]
    expected = load.count - len(_writes(records))
    # And what closed the file, and asked whether the mount is alive before it was removed.
    assert expected <= gap["lost"] <= expected + 15


def _attempts(mount: Served) -> dict[str, Callable[[], object]]:
    root = mount.mountpoint
    return {
        "mkdir": (root / "new").mkdir,
        "create": (root / "new").touch,
        "unlink": (root / "file").unlink,
        "rename": lambda: (root / "file").rename(root / "new"),
        "rmdir": (root / "directory").rmdir,
        "truncate": lambda: os.truncate(root / "file", 0),
        "chmod": lambda: (root / "file").chmod(0o777),
        "symlink": lambda: (root / "new").symlink_to("file"),
        "link": lambda: (root / "new").hardlink_to(root / "file"),
        "setxattr": lambda: os.setxattr(root / "file", "user.a", b"1"),
        "read": (root / "file").read_bytes,
        "list": lambda: list(root.iterdir()),
    }


def _state(source: Path) -> list[tuple[object, ...]]:
    return [
        (str(path), path.stat().st_mode, path.stat().st_nlink, path.is_file() and path.read_bytes(),
         os.listxattr(path))
        for path in sorted(source.rglob("*"))
    ]  # fmt: skip


@pytest.mark.parametrize("level", ["all", "data"])
def test_under_deny_what_cannot_be_recorded_does_not_happen(
    tmp_path: Path, disk: Disk, level: str
) -> None:
    options = ("-o", "on_log_failure=deny", "--record", level)
    with serve(tmp_path, *options, log=disk.root / "access.log") as mount:
        root = mount.mountpoint
        (root / "file").write_bytes(b"content")
        (root / "directory").mkdir()
        fd = os.open(root / "file", os.O_RDWR)
        try:
            disk.fill()
            done = 0
            while True:
                try:
                    os.pwrite(fd, b"y", 100 + done)
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    break
                done += 1
                assert done < 100_000
            before = _state(mount.source)
            assert (mount.source / "file").stat().st_size == (100 + done if done else 7)
            recorded = len(_writes(mount.records())) - 1
            assert recorded == done, "a write that took effect has no record"
            for name, attempt in _attempts(mount).items():
                with pytest.raises(OSError, match="Input/output") as refused:
                    attempt()
                assert refused.value.errno == errno.EIO, name
                assert _state(mount.source) == before, name
            if level == "all":
                with pytest.raises(OSError, match="Input/output"):
                    os.pread(fd, 1, 0)

            disk.make_room()
            _wait_for_the_next_attempt()
            os.pwrite(fd, b"z", 0)
            (root / "new").mkdir()
            assert (root / "file").read_bytes().startswith(b"zontent")
        finally:
            os.close(fd)
    records = mount.records()
    assert_no_gap_in_numbers(records)
    told = {(r["op"], r["path"]) for r in records if r["result"] == "EIO"}
    if level == "data":
        assert {("mkdir", "/new"), ("unlink", "/file"), ("rename", "/file")} <= told
    else:
        # The kernel asks for the directory first, and goes no further.
        assert {("getattr", "/"), ("write", "/file")} <= told
    made = [r["path"] for r in records if r["op"] == "mkdir" and r["result"] == "ok"]
    assert made == ["/directory", "/new"]


def test_under_deny_every_refusal_is_told_or_counted(tmp_path: Path, disk: Disk) -> None:
    options = ("-o", "on_log_failure=deny")
    with serve(tmp_path, *options, log=disk.root / "access.log") as mount:
        fd = os.open(mount.mountpoint / "f", os.O_WRONLY | os.O_CREAT)
        try:
            disk.fill()
            done = refused = 0
            # Until what is kept free for records is used up, too.
            while refused < 2000:
                try:
                    os.pwrite(fd, b"x", done)
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    refused += 1
                else:
                    assert not refused, "works again although nothing changed"
                    done += 1
            disk.make_room()
            _wait_for_the_next_attempt()
            os.pwrite(fd, b"x", done)
        finally:
            os.close(fd)
        assert (mount.source / "f").stat().st_size == done + 1
    records = mount.records()
    assert_no_gap_in_numbers(records)
    assert _writes(records) == list(range(done + 1))
    (gap,) = [number for number, record in enumerate(records) if record["op"] == "gap"]
    told = [n for n, r in enumerate(records) if r["op"] == "write" and r["result"] == "EIO"]
    assert len(told) + records[gap]["lost"] == refused
    assert max(told) < gap < max(n for n, r in enumerate(records) if r["op"] == "write")


def test_under_deny_a_log_on_a_full_disk_refuses_from_the_start(tmp_path: Path, disk: Disk) -> None:
    disk.fill()
    source, mountpoint = tmp_path / "source", tmp_path / "volume"
    for path in (source, mountpoint):
        path.mkdir()
    said = fusevol("mount", source, mountpoint, "--log", disk.root / "access.log",
                   "-o", "on_log_failure=deny", check=False)  # fmt: skip
    if said.returncode == 0:
        try:
            with pytest.raises(OSError, match="Input/output"):
                (mountpoint / "d").mkdir()
        finally:
            fusevol("unmount", mountpoint)
    assert not (source / "d").exists()


def test_a_log_that_was_removed_is_made_anew_on_hangup(tmp_path: Path) -> None:
    with serve(tmp_path) as mount:
        mount.log.unlink()
        daemon = status_of(mount.mountpoint)["pid"]
        os.kill(daemon, signal.SIGHUP)
        wait_until(mount.log.exists, "new log")
        (mount.mountpoint / "d").mkdir()
        assert runs(daemon)
    assert [r["op"] for r in mount.records() if r["op"] == "mkdir"] == ["mkdir"]
