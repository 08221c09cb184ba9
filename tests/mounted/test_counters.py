"""Counters of a mount, read by another process: the log and they tell the same."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fusevol.mounts import registry
from fusevol.record.record import EVENTS
from fusevol.recovery import counters
from fusevol.recovery.counters import Snapshot
from tests.served import Served, needs_root, serve, wait_until

pytestmark = needs_root

_NAMES = 40


def snapshot(served: Served) -> Snapshot:
    """The counters, by way of the keeper's descriptor."""
    mount = next(m for m in registry.all_served() if m.mountpoint == str(served.mountpoint))
    fd = os.open(f"/proc/{mount.pid}/fd/{mount.state_fd}", os.O_RDONLY)
    try:
        return counters.read(fd)
    finally:
        os.close(fd)


def worker_of(served: Served) -> int:
    """The worker that serves, as soon as one does."""

    def worker() -> int:
        mount = registry.get(str(served.mountpoint))
        return mount.worker if mount is not None else 0

    return wait_until(worker, "worker")


def _work(volume: Path) -> None:
    for number in range(_NAMES):
        path = volume / f"file-{number}"
        path.write_bytes(b"x" * 1000)
        assert len(path.read_bytes()) == 1000
        path.stat()
        with suppress(FileNotFoundError):
            (volume / f"no-{number}").unlink()
    os.listdir(volume)


@pytest.fixture(scope="module", params=["all", "data"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("counted"), "--record", request.param) as served:
        yield served


def test_counters_tell_what_the_log_tells(served: Served) -> None:
    _work(served.mountpoint)
    served.await_released(f"/file-{_NAMES - 1}")
    # The kernel closes directories later, too.
    wait_until(lambda: snapshot(served).open_directories == 0, "no open directory")
    counted, records = snapshot(served), served.records()
    logged = Counter(r["op"] for r in records if r["op"] not in EVENTS)
    failed = Counter((r["op"], r["result"]) for r in records if r["result"] != "ok")
    took: Counter[str] = Counter()
    for record in records:
        took[record["op"]] += record["us"]
    for op in logged:
        counts = counted.operations[op]
        assert counts.count == logged[op], op
        assert counts.us_total == took[op], op
        assert counts.errors == {result: n for (name, result), n in failed.items() if name == op}
    # What the level leaves out is counted all the same.
    assert counted.operations["lookup"].count >= _NAMES
    assert counted.operations["lookup"].errors["ENOENT"] >= _NAMES
    assert counted.operations["lookup"].us_total > 0
    assert counted.bytes_written == sum(r["bytes_written"] for r in records if r["op"] == "write")
    assert counted.bytes_read == sum(r["bytes_read"] for r in records if r["op"] == "read")
    assert (counted.left_out, counted.restarts) == (0, 0)


def test_what_is_open_and_known_is_told(served: Served) -> None:
    before = snapshot(served)
    (served.mountpoint / "held").write_bytes(b"")
    with (served.mountpoint / "held").open("rb"):
        fd = os.open(served.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        during = snapshot(served)
        os.close(fd)
    assert during.open_files >= 1
    assert during.open_directories >= 1
    assert during.known_inodes == before.known_inodes + 1
    wait_until(lambda: snapshot(served).open_files == 0, "no open file")
    wait_until(lambda: snapshot(served).open_directories == 0, "no open directory")
    (served.mountpoint / "held").unlink()
    wait_until(lambda: snapshot(served).known_inodes == before.known_inodes, "forgotten")


def test_a_killed_worker_counts_no_operation_twice_and_forgets_none(served: Served) -> None:
    before = snapshot(served)
    done = 0
    kills = 0
    with (served.mountpoint / "written").open("wb", buffering=0) as file:
        for _ in range(5):
            end = time.monotonic() + 0.15
            while time.monotonic() < end:
                file.write(b"y" * 10)
                done += 1
            os.kill(worker_of(served), signal.SIGKILL)
            kills += 1
            file.write(b"y" * 10)
            done += 1
    served.await_released("/written")
    after = snapshot(served)
    counted = after.operations["write"].count - before.operations["write"].count
    logged = [r for r in served.records() if r["op"] == "write" and r["path"] == "/written"]
    assert len(logged) == done
    # A kill at the very moment of counting leaves an operation out.
    assert done - kills <= counted <= done
    assert after.restarts - before.restarts == kills
    assert after.bytes_written - before.bytes_written >= 10 * (done - kills)
