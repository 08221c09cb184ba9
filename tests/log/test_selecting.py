"""Records that are not wanted are not written, on real mounts, also when that changes under way."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from tests.engines.daemon import Daemon, plain_daemon
from tests.mounted.test_counters import snapshot, worker_of
from tests.patience import PATIENCE_S
from tests.served import (
    Record,
    Served,
    assert_no_gap_in_numbers,
    fusevol,
    needs_root,
    serve,
    wait_until,
)

pytestmark = needs_root

_EVENTS = ("mount", "unmount", "restart", "update", "gap")


def _ops(records: list[Record]) -> Counter[str]:
    return Counter(record["op"] for record in records if record["op"] not in _EVENTS)


def _use(volume: Path) -> None:
    (volume / "kept.db").write_bytes(b"x" * 10)
    (volume / "kept.db").read_bytes()
    (volume / "other").write_bytes(b"y" * 10)
    (volume / "other").rename(volume / "moved.db")
    with suppress(FileNotFoundError):
        (volume / "missing").unlink()
    (volume / "full/inside").mkdir(parents=True)
    with suppress(OSError):
        (volume / "full").rmdir()
    (volume / "moved.db").unlink()


def test_only_what_is_wanted_is_written(tmp_path: Path) -> None:
    options = r"include=op=write|unlink|rename path=*.db; result=ENOTEMPTY,exclude=op=unlink pid=0"
    with serve(tmp_path, "-o", options + ",failure=all !lookup") as served:
        _use(served.mountpoint)
        served.await_released("/kept.db")
        after = snapshot(served)
    records = served.records()
    assert_no_gap_in_numbers(records)
    assert records[0]["filter"] == (
        "include='op=write|unlink|rename path=*.db; result=ENOTEMPTY' "
        "exclude='op=unlink pid=0' failure='all !lookup'"
    )
    found = [(r["op"], r["path"], r["result"]) for r in records if r["op"] not in _EVENTS]
    assert found == [
        ("write", "/kept.db", "ok"),
        ("rename", "/other", "ok"),
        ("rmdir", "/full", "ENOTEMPTY"),
        ("unlink", "/moved.db", "ok"),
    ]
    assert records[1]["comm"] == Path("/proc/self/comm").read_text().strip()
    counted = sum(counts.count for counts in after.operations.values())
    assert after.left_out == counted - len(found)
    assert after.bytes_read == 10


def test_lists_of_operations_for_success_and_failure(tmp_path: Path) -> None:
    with serve(tmp_path, "-o", "success=none,failure=all !lookup") as served:
        _use(served.mountpoint)
    assert _ops(served.records()) == {"rmdir": 1}


@pytest.mark.parametrize("options", ["exclude=op=write", "exclude=path=/written"])
def test_a_worker_that_is_killed_leaves_out_the_same(tmp_path: Path, options: str) -> None:
    done = 0
    with serve(tmp_path, "-o", options) as served:
        with (served.mountpoint / "written").open("wb", buffering=0) as file:
            for _ in range(4):
                for _ in range(300):
                    done += file.write(b"%09d\n" % done)
                os.kill(worker_of(served), signal.SIGKILL)
        assert (served.source / "written").stat().st_size == done
        left_out = snapshot(served).operations["write"].count
        assert done // 10 - 4 <= left_out <= done // 10
    records = served.records()
    assert_no_gap_in_numbers(records)
    assert "write" not in _ops(records)
    assert [record["op"] for record in records].count("restart") == 4


@pytest.mark.parametrize("option", ["include=op=wrte", "exclude=path='/a", "success=raed"])
def test_what_means_nothing_is_refused_before_anything_is_mounted(
    tmp_path: Path, option: str
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "volume").mkdir()
    done = fusevol(
        "mount", tmp_path / "source", tmp_path / "volume", "--log", tmp_path / "log", "-o", option,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert option.partition("=")[0] in done.stderr


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with plain_daemon() as daemon:
        yield daemon


_WRITER = """
import sys, time
with open(sys.argv[1], "wb", buffering=0) as file:
    number = 0
    while not sys.stdin.closed and number < 200000:
        file.write(b"%09d\\n" % number)
        number += 1
        if number % 50 == 0:
            print(number, flush=True)
            if sys.stdin.readline().strip() == "end":
                break
"""


class _Writer:
    """Writes numbered lines to a file that stays open, fifty at a time."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.written = 0

    def write(self, times: int) -> None:
        assert self._process.stdin
        assert self._process.stdout
        for _ in range(times):
            self.written = int(self._process.stdout.readline())
            self._process.stdin.write("go on\n")
            self._process.stdin.flush()

    def end(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self.written = int(self._process.stdout.readline())
        self._process.stdin.write("end\n")
        self._process.stdin.close()
        assert self._process.wait(PATIENCE_S) == 0
        self._process.stdout.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def test_a_volume_in_use_takes_other_rules_from_one_record_to_the_next(
    daemon: Daemon, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    daemon.create("data", source, "-o", "exclude=op=lookup")
    assert "unknown operation" in daemon.refused(
        "volume", "update", "data", "-o", "include=op=wrte"
    )
    assert "unknown operation" in daemon.refused("volume", "create", "other", "-o", "success=raed")
    rules = ["op=write path=/file", "op=lookup gid=1", ""]
    with daemon.client() as client:
        place = Path(client.mount("data", "one").mountpoint)
        log = daemon.log_path("data")
        writer = _Writer(place / "file")
        try:
            writer.write(6)
            for number, rule in enumerate(rules, 1):
                daemon.cli("volume", "update", "data", "-o", f"exclude={rule}")
                # Not by records: of the newest line the kernel may let the first part be seen.
                while log.read_bytes().count(b'"op":"update"') < number:
                    writer.write(1)
                writer.write(6)
            writer.end()
        finally:
            writer.kill()
        wait_until(lambda: "release" in _ops(daemon.records("data")), "release")
        mount = Served(source, place, daemon.log_path("data"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FUSEVOL_RUNTIME_DIRECTORY", daemon.env["FUSEVOL_RUNTIME_DIRECTORY"])
            counted = snapshot(mount)
        client.unmount("data", "one")
    lines = (source / "file").read_bytes().splitlines()
    assert [int(line) for line in lines] == list(range(writer.written)), "an open file went on"
    records = daemon.records("data")
    assert_no_gap_in_numbers(records)
    written = [r["offset"] for r in records if r["op"] == "write"]
    assert counted.operations["write"].count == writer.written
    assert sum(r["op"] == "write" for r in records) == len(set(written)), "doubled"
    parts = _parts(records)
    assert [part[0].get("filter", "") for part in parts] == [
        f"exclude='{rule}'" if " " in rule else f"exclude={rule}" if rule else ""
        for rule in ["op=lookup", *rules]
    ]
    for part in parts:
        offsets = [r["offset"] for r in part if r["op"] == "write"]
        if "op=write" in part[0].get("filter", ""):
            assert not offsets
        else:
            assert len(offsets) > 200
            assert all(after == before + 10 for before, after in pairwise(offsets)), "one is lost"


def _parts(records: list[Record]) -> list[list[Record]]:
    """The records from each that tells the rules up to the next such."""
    parts: list[list[Record]] = []
    for record in records:
        if record["op"] in ("mount", "update"):
            parts.append([])
        parts[-1].append(record)
    return parts


def test_without_a_log_all_is_counted_and_openers_are_known(tmp_path: Path) -> None:
    with serve(tmp_path, "--log", "none") as served:
        _use(served.mountpoint)
        path = served.mountpoint / "tool"
        with path.open("wb", buffering=0) as file:
            path.chmod(0o4755)
            file.write(b"x")
            assert path.stat().st_mode & 0o7777 == 0o4755, "root may keep the bit (write(2))"
        with pytest.raises(FileNotFoundError):
            (served.mountpoint / "missing").stat()
        counted = snapshot(served)
    operations = counted.operations
    assert operations["write"].count == 3
    assert operations["rmdir"].errors == {"ENOTEMPTY": 1}
    assert operations["lookup"].errors["ENOENT"] >= 1
    assert (counted.bytes_written, counted.left_out, counted.records) == (21, 0, 0)
