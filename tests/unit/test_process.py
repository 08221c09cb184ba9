"""Whether a process that was written down is the one that has its id now."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusevol.linux.process import Process
from fusevol.logagent import status
from fusevol.mounts import registry
from fusevol.mounts.registry import MountEntry
from tests.served import wait_until


@pytest.fixture
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEVOL_RUNTIME_DIRECTORY", str(tmp_path / "run"))


def served(keeper: int, worker: int = 0) -> MountEntry:
    return MountEntry("/mnt", "/source", "data", "none", "all", 0, keeper, worker)


def others(process: Process) -> list[Process]:
    """Return processes that had or have the same id, and are not this one."""
    return [
        Process(process.pid, process.start_ticks - 1, process.pid_namespace),
        Process(process.pid, process.start_ticks, process.pid_namespace + 1),
        Process(process.pid, 0, process.pid_namespace),
    ]


def test_only_the_very_process_is_told_a_signal(stranger: "subprocess.Popen[bytes]") -> None:
    process = Process.of(stranger.pid)
    for other in others(process):
        assert not other.runs()
        assert other.open() == -1
        assert not other.signal(signal.SIGKILL)
    assert process.runs()
    assert stranger.poll() is None
    assert process.signal(signal.SIGTERM)
    assert stranger.wait() == -signal.SIGTERM
    assert not process.runs()
    assert not process.signal(0)


def test_a_process_that_ended_and_was_not_waited_for_runs_no_more() -> None:
    with subprocess.Popen(["true"]) as process:
        known = Process.of(process.pid)
        wait_until(lambda: not known.runs(), "end of the process")


def test_no_id_is_no_process() -> None:
    assert not Process.of(0).runs()
    assert Process.of(0).open() == -1
    assert Process.current().runs()


def test_an_entry_names_its_processes(stranger: "subprocess.Popen[bytes]") -> None:
    registry.write(served(os.getpid(), stranger.pid))
    entry = registry.get("/mnt")
    assert entry is not None
    assert entry.keeper == Process.current()
    assert entry.server == Process.of(stranger.pid)
    assert not entry.is_dead


def rewrite(**changes: int) -> MountEntry:
    """Change an entry on the disk, and read it."""
    (path,) = Path(registry.runtime_directory()).glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    entry = registry.get("/mnt")
    assert entry is not None
    return entry


def test_an_entry_whose_ids_went_to_others_is_that_of_a_dead_mount(
    stranger: "subprocess.Popen[bytes]",
) -> None:
    registry.write(served(stranger.pid, stranger.pid))
    entry = rewrite(keeper_start=1, worker_start=1)
    assert not entry.is_kept
    assert entry.is_dead
    assert registry.all_served() == []
    assert registry.get("/mnt") is None


def test_an_entry_of_another_pid_namespace_is_left_alone(
    stranger: "subprocess.Popen[bytes]",
) -> None:
    registry.write(served(stranger.pid, stranger.pid))
    entry = rewrite(pid_namespace=1)
    assert not entry.is_kept
    assert not entry.is_dead
    assert registry.all_served() == []
    assert registry.get("/mnt") is not None


def test_an_entry_of_an_earlier_version_is_believed_of_a_keeper_only(
    stranger: "subprocess.Popen[bytes]",
) -> None:
    module = "fusevol.daemon.keeper"
    with subprocess.Popen(["sh", "-c", "read wait", module], stdin=-1) as keeper:
        # Popen returns when execve(2) closes its pipe; the command line follows a little later.
        command_line = Path(f"/proc/{keeper.pid}/cmdline")
        wait_until(lambda: module in command_line.read_text(), "the command line")
        registry.write(served(keeper.pid, stranger.pid))
        entry = rewrite(keeper_start=0, worker_start=0, pid_namespace=0)
        assert entry.keeper.runs()
        assert not entry.server.runs()


def test_an_entry_is_removed_by_the_keeper_it_names() -> None:
    registry.write(served(os.getpid()))
    registry.remove("/mnt", os.getpid() + 1)
    assert registry.get("/mnt") is not None
    registry.remove("/mnt", os.getpid())
    assert registry.get("/mnt") is None


def test_an_agent_whose_id_went_to_another_tells_nothing(
    stranger: "subprocess.Popen[bytes]",
) -> None:
    status.write(status.AgentStatus("/var/log/x.log", stranger.pid))
    assert status.read("/var/log/x.log") is not None
    stranger.kill()
    stranger.wait()
    assert status.read("/var/log/x.log") is None
