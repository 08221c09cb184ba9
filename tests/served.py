"""A mount of fusevol for tests: made, looked into, and gone afterwards whatever happens."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from fusevol.logs.log_end import end_of_log
from fusevol.mounts import registry
from fusevol.names import decode_name
from fusevol.record.record import decode
from tests.patience import PATIENCE_S

FUSEVOL = str(Path(sys.executable).parent / "fusevol")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root: mounts, other users")

Record = dict[str, Any]
Found = TypeVar("Found")


def fusevol(
    *arguments: str | Path, check: bool = True, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command of fusevol; fail with what it said if `check` and it does not succeed."""
    done = subprocess.run(
        [FUSEVOL, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE_S,
        errors="surrogateescape", stdin=subprocess.DEVNULL, env=env, check=False,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stderr
    return done


def read_log(*logs: Path) -> list[Record]:
    """Return all records of logs, after a check that each line is a whole and valid one."""
    records = []
    for log in logs:
        content = log.read_bytes()
        assert content.endswith(b"\n") or not content, f"{log} ends within a line"
        for line in content.splitlines():
            decode(line)
            records.append(json.loads(line))
    return records


def assert_no_gap_in_numbers(records: list[Record], first: int = 1) -> None:
    """Check that `seq` counts from `first`, in the order of the file, without gaps or repeats."""
    numbers = [record["seq"] for record in records]
    assert numbers == list(range(first, first + len(numbers)))


def name_of(record: Record, key: str = "path") -> bytes:
    """Return the bytes that a record's path or name stands for."""
    return decode_name(record[key])


@dataclass
class Served:
    """A mount that is served by a daemon in the background."""

    source: Path
    mountpoint: Path
    log: Path

    def records(self) -> list[Record]:
        """Return what is in the log now."""
        return read_log(self.log)

    def since(self, seq: int) -> list[Record]:
        """Return the records after number `seq`."""
        return [record for record in self.records() if record["seq"] > seq]

    def last_seq(self) -> int:
        """Return the number of the newest record, also if its file was just rotated away."""
        return end_of_log(str(self.log)).seq

    def status(self) -> dict[str, Any]:
        """Return what `fusevol status` tells of this mount."""
        return status_of(self.mountpoint)

    def unmount(self) -> None:
        """Unmount, and fail if that does not work at once."""
        end(self.mountpoint)

    def await_released(self, path: str, since: int = 0) -> None:
        """Wait until every open of `path` was closed in the log: the kernel releases later."""
        wait_until(lambda: _open_count(self.since(since), path) == 0, f"release of {path}")


def _open_count(records: list[Record], path: str) -> int:
    done = [r["op"] for r in records if r.get("path") == path and r["result"] == "ok"]
    return done.count("open") + done.count("create") - done.count("release")


def status_of(mountpoint: Path) -> dict[str, Any]:
    """Return what `fusevol status` tells of the mount at `mountpoint`."""
    for mount in _statuses():
        if mount["mountpoint"] == str(mountpoint):
            return dict(mount)
    raise AssertionError(f"{mountpoint} is not served")


def _statuses() -> list[dict[str, Any]]:
    return list(json.loads(fusevol("status", "--json").stdout))


def is_mounted(mountpoint: Path) -> bool:
    """Tell whether anything is mounted exactly there, without asking the mount."""
    wanted = re.sub(rb"[ \t\n\\]", lambda found: b"\\%03o" % ord(found[0]), os.fsencode(mountpoint))
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return any(line.split(b" ")[4] == wanted for line in lines)


def runs(pid: int) -> bool:
    """Tell whether a process runs; one that ended but was not waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b") ")[2][:1] not in (b"Z", b"X")


def kill_mount(keeper: int, worker: int) -> None:
    """Kill all that keeps a mount alive; a worker that knew its keeper dead would become it."""
    os.kill(worker, signal.SIGSTOP)
    os.kill(keeper, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not runs(worker), "end of the worker")


def kill_for_good(keeper_and_worker: Callable[[], tuple[int, int]]) -> None:
    """Kill a mount, and make its state one that no keeper can go on with."""
    keeper, worker = keeper_and_worker()
    for fd in Path(f"/proc/{keeper}/fd").iterdir():
        if "memfd:fusevol-state" in os.readlink(fd):
            with fd.open("r+b", buffering=0) as state:
                state.write(bytes(8))
            break
    else:
        raise AssertionError(f"process {keeper} has no recovery state")
    kill_mount(keeper, worker)


def wait_until(
    condition: Callable[[], Found | None], what: str, seconds: float = PATIENCE_S
) -> Found:
    """Wait for a condition; return what made it true. Fail if it does not come true in time."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.005)
    return found


def _is_unmounted(mountpoint: Path) -> bool:
    """Unmount; False if somebody just looks at all mounts of the machine, as df(1) does."""
    done = fusevol("unmount", mountpoint, check=False)
    assert done.returncode == 0 or "in use by processes that /proc does not" in done.stderr, (
        done.stderr
    )
    return done.returncode == 0


def end(mountpoint: Path) -> None:
    """Unmount, and wait for the end of who served it.

    That comes later where others on the machine have just copied all mounts, for a container of
    theirs: in their copy it is mounted still.
    """
    entry = registry.get(str(mountpoint))
    wait_until(lambda: _is_unmounted(mountpoint), "an unmount")
    if entry is not None:
        wait_until(lambda: not runs(entry.pid) and not runs(entry.worker), "end of the mount")


@contextmanager
def stay(directory: Path, *options: str | Path, log: Path | None = None) -> Iterator[Served]:
    """Serve as `serve` does, with a process that stays and revives the mount (`mount -f`)."""
    log = log or directory / "access.log"
    served = Served(directory / "source", directory / "volume", log)
    for path in (served.source, served.mountpoint):
        path.mkdir(exist_ok=True)
    words = ["mount", "-f", served.source, served.mountpoint, "--log", served.log, *options]
    with subprocess.Popen([FUSEVOL, *map(str, words)], stdin=subprocess.DEVNULL) as process:
        try:
            wait_until(
                lambda: any(m["mountpoint"] == str(served.mountpoint) for m in _statuses()),
                "the mount", PATIENCE_S,
            )  # fmt: skip
            yield served
            if is_mounted(served.mountpoint):
                served.unmount()
            assert process.wait(PATIENCE_S) == 0
        finally:
            fusevol("unmount", "--force", served.mountpoint, check=False)
            process.kill()


@contextmanager
def serve(directory: Path, *options: str | Path, log: Path | None = None) -> Iterator[Served]:
    """Serve `directory`/source at `directory`/volume, with the log beside them.

    Args:
        options: further arguments of `fusevol mount`.
        log: another place for the log.
    """
    source, mountpoint = directory / "source", directory / "volume"
    source.mkdir(exist_ok=True)
    mountpoint.mkdir(exist_ok=True)
    log = log or directory / "access.log"
    fusevol("mount", source, mountpoint, "--log", log, *options)
    try:
        yield Served(source, mountpoint, log)
    except BaseException:
        # What the test says went wrong counts; the clean-up must not hide it.
        fusevol("unmount", "--lazy", mountpoint, check=False)
        raise
    if is_mounted(mountpoint):
        end(mountpoint)
