"""With a deadline, what the source does not answer in time fails, and the rest goes on."""

import errno
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from tests.hung.file_system import CONTENT, NAMES
from tests.hung.source import SlowSource, slow_source
from tests.patience import PATIENCE_S
from tests.served import Served, fusevol, needs_root, runs, serve, wait_until

pytestmark = needs_root

DEADLINE_S: Final = 2.0
"""More than looking up what takes a second in a listing."""

_STAT: Final = "os.stat(path)"
_CALLS: Final = {
    "lookup": _STAT,
    "open": "os.open(path, os.O_WRONLY)",
    "read": "os.pread(os.open(path, os.O_RDONLY), 100, 0)",
    "write": "os.pwrite(os.open(path, os.O_WRONLY), b'late', 0)",
    "fsync": "os.fsync(os.open(path, os.O_WRONLY))",
}


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SlowSource]:
    with slow_source(tmp_path / "slow") as source:
        yield source


@pytest.fixture
def served(source: SlowSource, tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "source").symlink_to(source.path)
    with serve(tmp_path, "-o", f"deadline={DEADLINE_S}") as served:
        yield served
        source.release()


def assert_given_up(source: SlowSource, code: str, path: Path) -> None:
    """Check that a call fails with EIO at the deadline."""
    began = time.monotonic()
    with source.client(
        f"""
import errno
try:
    {code}
except OSError as error:
    print(errno.errorcode[error.errno])
""",
        path,
        keeps_hanging=True,
    ) as client:
        assert client.communicate(timeout=PATIENCE_S) == ("EIO\n", "")
    assert time.monotonic() - began >= DEADLINE_S


def given_up(served: Served) -> list[tuple[str, str]]:
    """Return operation and path of the records that tell of a deadline."""
    records: list[dict[str, Any]] = served.records()
    late = [record for record in records if record.get("reason") == "deadline"]
    assert all(record["result"] == "EIO" for record in late)
    assert all(record["us"] >= DEADLINE_S * 1e6 for record in late)
    return [(record["op"], record["path"]) for record in late]


def descriptors(served: Served) -> int:
    return len(os.listdir(f"/proc/{served.status()['worker']}/fd"))


@pytest.mark.parametrize("op", _CALLS)
def test_what_hangs_fails_and_all_is_well_when_the_source_answers_again(
    source: SlowSource, served: Served, op: str
) -> None:
    (served.mountpoint / "file").read_bytes()
    before = descriptors(served)
    path = served.mountpoint / f"{op}-hang"
    assert_given_up(source, _CALLS[op], path)
    assert given_up(served)[:1] == [(op, f"/{op}-hang")]
    source.release()
    wait_until(lambda: _reads(served.mountpoint / "file"), "an answer")
    assert path.read_bytes() == (b"lateent\n" if op == "write" else CONTENT)
    path.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert sorted(os.listdir(served.mountpoint)) == sorted(NAMES)
    # What was opened late is closed.
    wait_until(lambda: descriptors(served) <= before + 3, "end of late calls")
    assert sum(record["op"] == "restart" for record in served.records()) == 0


def _reads(path: Path) -> bool:
    try:
        return path.read_bytes() == CONTENT
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return False


@pytest.mark.parametrize("op", ["read", "write", "fsync"])
def test_behind_a_call_on_data_all_else_goes_on(
    source: SlowSource, served: Served, op: str
) -> None:
    assert_given_up(source, _CALLS[op], served.mountpoint / f"{op}-hang")
    # What waited behind the call would fail at its own deadline.
    for _ in range(20):
        assert (served.mountpoint / "file").read_bytes() == CONTENT


def test_behind_a_call_on_a_name_others_fail_at_their_deadline(
    source: SlowSource, served: Served
) -> None:
    assert_given_up(source, _STAT, served.mountpoint / "lookup-hang")
    assert_given_up(source, _STAT, served.mountpoint / "file")
    # Whoever looks at all mounts of the machine meanwhile is given up on as well.
    assert set(given_up(served)[1:]) <= {("getattr", "/"), ("lookup", "/file"), ("statfs", "/")}
    assert len(given_up(served)) > 1


def test_a_listing_that_hangs_fails_and_is_whole_afterwards(
    source: SlowSource, served: Served
) -> None:
    """It has begun to fill the reply, which is gone when it goes on."""
    assert_given_up(source, "os.listdir(path)", served.mountpoint)
    assert ("readdir", "/") in given_up(served)
    source.release()
    wait_until(lambda: _reads(served.mountpoint / "file"), "an answer")
    for _ in range(3):
        assert sorted(os.listdir(served.mountpoint)) == sorted(NAMES)
    assert sum(record["op"] == "restart" for record in served.records()) == 0


def test_many_at_once_fail_and_work_again(source: SlowSource, served: Served) -> None:
    """More than there are threads and tasks, behind one that hangs."""
    assert_given_up(source, _STAT, served.mountpoint / "lookup-hang")
    code = f"""
import concurrent.futures, errno
def ask(number):
    try:
        os.stat(path + str(number))
    except OSError as error:
        return error.errno
with concurrent.futures.ThreadPoolExecutor(150) as pool:
    print(set(pool.map(ask, range(300))) == {{{errno.EIO}}})
"""
    with source.client(code, served.mountpoint / "none", keeps_hanging=True) as client:
        assert client.communicate(timeout=PATIENCE_S) == ("True\n", "")
    source.release()
    wait_until(lambda: _reads(served.mountpoint / "file"), "an answer")
    with ThreadPoolExecutor(16) as pool:
        paths = [served.mountpoint / "file"] * 200
        assert set(pool.map(Path.read_bytes, paths)) == {CONTENT}


def test_a_descriptor_number_is_not_given_away_while_a_late_call_may_use_it(
    source: SlowSource, served: Served
) -> None:
    """The writer has closed its file long since when the source takes the write."""
    assert_given_up(source, _CALLS["write"], served.mountpoint / "write-hang")
    worker = served.status()["worker"]
    wait_until(lambda: _has_open(worker, "write-hang"), "the file", 1)
    time.sleep(0.5)
    assert _has_open(worker, "write-hang")
    source.release()
    wait_until(lambda: not _has_open(worker, "write-hang"), "the file to be closed")
    assert (served.mountpoint / "write-hang").read_bytes() == b"lateent\n"


def _has_open(worker: int, name: str) -> bool:
    """Tell whether a process has a file open for reading or writing (not as O_PATH)."""
    for fd in Path(f"/proc/{worker}/fd").iterdir():
        try:
            target = os.readlink(fd)
            info = Path(f"/proc/{worker}/fdinfo/{fd.name}").read_text()
        except FileNotFoundError:
            continue
        flags = int(info.partition("flags:")[2].split()[0], 8)
        if target.endswith(f"/{name}") and not flags & os.O_PATH:
            return True
    return False


def test_a_source_that_takes_no_requests(source: SlowSource, served: Served) -> None:
    source.stop()
    for _ in range(2):
        assert_given_up(source, _STAT, served.mountpoint / "file")
    source.release()
    wait_until(lambda: _reads(served.mountpoint / "file"), "an answer")


def test_a_worker_that_dies_while_calls_are_late_is_succeeded(
    source: SlowSource, served: Served
) -> None:
    assert_given_up(source, _CALLS["read"], served.mountpoint / "read-hang")
    worker = served.status()["worker"]
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not runs(worker), "end of the worker")
    assert (served.mountpoint / "file").read_bytes() == CONTENT
    assert served.status()["worker"] != worker
    source.release()
    assert (served.mountpoint / "read-hang").read_bytes() == CONTENT


@pytest.mark.parametrize(("level", "log"), [("all", True), ("data", False)])
def test_at_each_level_with_and_without_log(
    source: SlowSource, tmp_path: Path, level: str, log: bool
) -> None:
    (tmp_path / "source").symlink_to(source.path)
    options = [
        "-o",
        f"deadline={DEADLINE_S}",
        "--record",
        level,
        *(() if log else ("--log", "none")),
    ]
    with serve(tmp_path, *options) as served:
        for op in ("read", "open", "lookup"):
            assert_given_up(source, _CALLS[op], served.mountpoint / f"{op}-hang")
        source.release()
        wait_until(lambda: _reads(served.mountpoint / "file"), "an answer")


def test_a_local_source_works_with_a_deadline(tmp_path: Path) -> None:
    with serve(tmp_path, "-o", "deadline=30") as served:
        directory = served.mountpoint / "directory"
        directory.mkdir()
        (directory / "file").write_bytes(b"x" * 3_000_000)
        assert (directory / "file").read_bytes() == b"x" * 3_000_000
        with (directory / "file").open("ab") as file:
            file.write(b"y")
            os.fsync(file.fileno())
        (directory / "file").rename(served.mountpoint / "moved")
        os.mkfifo(directory / "fifo")
        assert stat.S_ISFIFO((directory / "fifo").stat().st_mode)
        subprocess.run(["rm", "-r", directory], check=True)
        assert os.listdir(served.mountpoint) == ["moved"]
    assert (served.source / "moved").stat().st_size == 3_000_001


def test_a_new_file_can_be_opened_while_it_is_being_closed(tmp_path: Path) -> None:
    """The release comes when close(2) has returned, and is done on another thread than the rest."""

    def make_and_read(number: int) -> None:
        for turn in range(150):
            path = tmp_path / f"volume/{number}-{turn}"
            path.write_text(path.name)
            assert path.read_text() == path.name

    options = ("-o", "deadline=30", "--record", "data")
    with serve(tmp_path, *options), ThreadPoolExecutor(8) as pool:
        list(pool.map(make_and_read, range(8)))


@pytest.mark.parametrize("value", ["-1", "0.05", "nan", "inf", "soon", "1e9", ""])
def test_a_deadline_that_cannot_be_meant(tmp_path: Path, value: str) -> None:
    for name in ("source", "volume"):
        (tmp_path / name).mkdir()
    done = fusevol(
        "mount", tmp_path / "source", tmp_path / "volume", "-o", f"deadline={value}", check=False
    )
    assert done.returncode == 2
    assert "deadline" in done.stderr
