"""How containers of `fusevol run` end: killed in any way, asked to, before they have begun."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines.podman import RUNTIMES
from tests.engines.runner import Runner, control_groups, left_over, runner_of
from tests.patience import PATIENCE_S
from tests.served import needs_root, runs, wait_until

pytestmark = needs_root

SLEEP = "echo ready; exec sleep 600"
AS_ANOTHER = f"exec busybox su user -c '{SLEEP}'"
"""As entrypoints of many images do: the kernel then forgets to kill it when its parent ends."""


@pytest.fixture(scope="module", params=RUNTIMES)
def runner(request: pytest.FixtureRequest, rootfs: Path) -> Iterator[Runner]:
    """`fusevol run` with each runtime."""
    with runner_of(rootfs, request.param) as runner:
        yield runner


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    return directory


@contextmanager
def started(runner: Runner, *words: str | Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a container whose command says "ready"."""
    process = subprocess.Popen(
        runner.of_rootfs(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **runner.env},
    )  # fmt: skip
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe
            pipe.close()


def monitor_of(runner: Runner, name: str) -> int:
    entry = runner.directory / "state/containers" / runner.find(name)["id"] / "container.json"
    return int(json.loads(entry.read_text())["monitor"]["pid"])


def server_of(mountpoint_of: str, runner: Runner) -> int:
    """Return the process that watches over the only volume that is served for a container."""
    (entry,) = (runner.directory / "runtime").glob(f"*{mountpoint_of}*.json")
    return int(json.loads(entry.read_text())["pid"])


@pytest.mark.parametrize("script", [SLEEP, AS_ANOTHER])
def test_the_container_ends_with_its_monitor(runner: Runner, source: Path, script: str) -> None:
    words = ("--rm", "--name", "watched", "-v", f"{source}:/data", "--", "sh", "-c", script)
    with started(runner, *words) as process:
        found = runner.find("watched")
        os.kill(monitor_of(runner, "watched"), signal.SIGKILL)
        assert process.wait(PATIENCE_S) == 125
        assert process.stderr
        assert "monitor of container watched was killed" in process.stderr.read()
    assert not runs(found["pid"])
    assert control_groups(found["id"]) == []
    assert left_over(runner.directory) == []
    assert runner.ps() == []


def test_the_next_command_cleans_up_when_all_were_killed(runner: Runner, source: Path) -> None:
    words = ("--name", "orphan", "-v", f"{source}:/data", "--", "sh", "-c", AS_ANOTHER)
    with started(runner, *words) as process:
        found = runner.find("orphan")
        victims = (
            process.pid, monitor_of(runner, "orphan"), server_of(found["id"], runner)
        )  # fmt: skip
        for pid in victims:
            os.kill(pid, signal.SIGSTOP)
        for pid in reversed(victims):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(runs, victims)), "end of all that watched over it")
    assert runs(found["pid"])
    again = runner.find("orphan")
    assert (again["status"], again["exit_status"], again["pid"]) == ("exited", 128 + 9, 0)
    assert not runs(found["pid"])
    assert control_groups(found["id"]) == []
    assert left_over(runner.directory) == []
    runner.cli("rm", "orphan")


def test_a_command_that_does_not_obey_ends_at_the_third_request(runner: Runner) -> None:
    with started(runner, "--rm", "--name", "stubborn", "--", "sh", "-c", SLEEP) as process:
        command = Path(f"/proc/{runner.find('stubborn')['pid']}/comm")
        wait_until(lambda: command.read_text() == "sleep\n", "end of the shell, which obeys")
        for number in (signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 128 + 9
    assert runner.ps() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_it_can_be_ended_before_it_has_begun(runner: Runner, number: signal.Signals) -> None:
    with socket.socket(socket.AF_UNIX) as daemon:
        # A daemon that never answers.
        address = runner.directory / "runtime/control.sock"
        daemon.bind(str(address))
        daemon.listen()
        process = subprocess.Popen(
            runner.of_rootfs("-v", "data:/data", "--", "true"), env={**os.environ, **runner.env}
        )
        try:
            connection, _ = daemon.accept()
            assert [one["status"] for one in runner.ps()] == ["starting"]
            process.send_signal(number)
            assert process.wait(PATIENCE_S) == 128 + number
        finally:
            process.kill()
            process.wait()
            address.unlink()
        connection.close()
    assert runner.ps() == []


def test_several_are_removed_by_one_command(runner: Runner) -> None:
    for name in ("one", "two"):
        runner.cli("run", "--rootfs", runner.rootfs, "--name", name, "--", "true")
    with started(runner, "--name", "busy", "--", "sh", "-c", SLEEP):
        done = runner.cli("rm", "one", "busy", "none", "two", check=False)
        assert done.returncode == 3
        assert done.stdout.split() == ["one", "two"]
        assert "busy is running" in done.stderr
        assert "no container none" in done.stderr
        assert runner.cli("rm", "--force", "busy").stdout == "busy\n"
    assert runner.ps() == []
