"""dockerd and the daemon restarted and killed, with and without containers that run."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.engines.daemon import Daemon
from tests.engines.docker import IMAGE, Docker
from tests.served import assert_no_gap_in_numbers, kill_for_good, needs_root, wait_until
from tests.turns import ONE_PLUGIN

pytestmark = [needs_root, ONE_PLUGIN]


SEEN_S: Final = 2.5
"""By then the daemon has seen that a container has bound its volume."""

# Writes all the time, and ends when it is told to, as the first process of a container has to.
WRITER: Final = (
    "sh", "-c", "trap 'exit 0' TERM; while :; do echo x >>/data/$(cat /data/name); sleep 0.1; done",
)  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "name").write_text("written")
    return source


@pytest.fixture
def volume(docker: Docker, daemon: Daemon, source: Path) -> Iterator[str]:
    """A volume that both know, and that both have forgotten in the end."""
    docker.cli("volume", "create", "--driver=fusevol", f"--opt=source={source}", "data")
    yield "data"
    if names := docker.cli("ps", "--all", "--quiet").split():
        docker.cli("rm", "--force", *names)
    docker.cli("volume", "rm", "data")
    assert docker.cli("volume", "ls", "--quiet") == ""
    assert daemon.volumes() == []
    daemon.log_path("data").unlink()


def start(docker: Docker, *options: str) -> str:
    """Start a container that writes into the volume; return its id."""
    return docker.run("--detach", "--volume=data:/data", *options, IMAGE, *WRITER)


def await_writes(source: Path) -> None:
    """Wait until a container has written more."""
    written = source / "written"
    before = written.stat().st_size if written.exists() else 0
    wait_until(lambda: written.exists() and written.stat().st_size > before, "more to be written")


def await_references(daemon: Daemon, count: int) -> None:
    wait_until(
        lambda: sum(daemon.references("data").values()) == count,
        f"{count} references",
    )  # fmt: skip


def containers_of(daemon: Daemon) -> set[str | None]:
    """Return which containers wrote."""
    records = daemon.records("data")
    # Numbers go on behind those of an earlier test, whose log was deleted.
    assert records[0]["op"] == "mount"
    assert_no_gap_in_numbers(records, records[0]["seq"])
    return {record.get("container") for record in records if record["op"] == "write"}


Stop = Callable[[Docker], None]


@pytest.mark.parametrize("stop", [Docker.stop, Docker.kill], ids=["stopped", "killed"])
def test_dockerd_restarts_while_a_container_runs(
    docker: Docker, daemon: Daemon, volume: str, source: Path, stop: Stop
) -> None:
    container = start(docker)
    await_writes(source)
    await_references(daemon, 1)
    time.sleep(SEEN_S)
    stop(docker)
    docker.start()
    # Without --live-restore it ends a container that outlived it, and does not always say so.
    assert not docker.inspect(container)["State"]["Running"]
    assert docker.cli("volume", "ls", "--quiet") == volume
    await_references(daemon, 0)
    docker.cli("start", container)
    await_writes(source)
    await_references(daemon, 1)
    assert containers_of(daemon) == {container}
    docker.cli("rm", "--force", container)
    await_references(daemon, 0)


def test_a_volume_can_be_removed_right_after_dockerd_was_killed(
    docker: Docker, daemon: Daemon, volume: str, source: Path
) -> None:
    container = start(docker)
    await_writes(source)
    docker.kill()
    docker.start()
    docker.cli("rm", "--force", container)
    docker.cli("volume", "rm", volume)
    assert daemon.volumes() == []
    docker.cli("volume", "create", "--driver=fusevol", f"--opt=source={source}", volume)


def test_containers_outlive_dockerd_with_live_restore(
    docker: Docker, daemon: Daemon, volume: str, source: Path
) -> None:
    # It counts its containers' mounts anew then, and asks nobody.
    docker.stop()
    docker.start("--live-restore")
    try:
        container = start(docker)
        await_writes(source)
        for stop in (Docker.stop, Docker.kill):
            stop(docker)
            await_writes(source)
            docker.start("--live-restore")
            assert docker.inspect(container)["State"]["Running"]
            await_writes(source)
            assert sum(daemon.references(volume).values()) == 1
        assert containers_of(daemon) == {container}
        docker.cli("rm", "--force", container)
        await_references(daemon, 0)
    finally:
        docker.restart()


def restart(daemon: Daemon) -> None:
    daemon.restart()


def kill(daemon: Daemon) -> None:
    daemon.kill()
    daemon.start()


@pytest.fixture(params=[restart, kill], ids=["restarted", "killed"])
def restarting(request: pytest.FixtureRequest) -> Callable[[Daemon], None]:
    """A way to have the daemon begin anew."""
    chosen: Callable[[Daemon], None] = request.param
    return chosen


def test_an_idle_daemon_loses_nothing(
    docker: Docker, daemon: Daemon, volume: str, restarting: Callable[[Daemon], None]
) -> None:
    before = daemon.inspect(volume)
    restarting(daemon)
    assert daemon.inspect(volume) == before
    assert docker.cli("volume", "ls", "--quiet") == volume
    assert docker.run("--rm", "--volume=data:/data", IMAGE, "cat", "/data/name") == "written"


def test_a_container_goes_on_while_the_daemon_begins_anew(
    docker: Docker, daemon: Daemon, volume: str, source: Path,
    restarting: Callable[[Daemon], None],
) -> None:  # fmt: skip
    container = start(docker)
    await_writes(source)
    before = daemon.inspect(volume)
    restarting(daemon)
    await_writes(source)
    assert daemon.inspect(volume) == before
    assert before["references"]
    # The volume can be bound once more, and the first one's end does not take it from the second.
    second = start(docker)
    docker.cli("rm", "--force", container)
    await_writes(source)
    assert sum(daemon.references(volume).values()) == 1
    assert containers_of(daemon) == {container, second}
    docker.cli("rm", "--force", second)
    await_references(daemon, 0)


def test_a_container_that_ended_while_the_daemon_was_away_is_found_out(
    docker: Docker, daemon: Daemon, volume: str, source: Path
) -> None:
    container = start(docker)
    await_writes(source)
    time.sleep(SEEN_S)
    daemon.kill()
    await_writes(source)
    # dockerd asks for 15 s, then it takes the volume for unmounted all the same.
    docker.cli("rm", "--force", container)
    daemon.start()
    await_references(daemon, 0)
    wait_until(lambda: daemon.inspect(volume)["state"] == "idle", "end of the worker")


def test_a_mount_that_is_killed_takes_its_containers_volume_and_no_other(
    docker: Docker, daemon: Daemon, volume: str, source: Path
) -> None:
    first = start(docker)
    await_writes(source)
    kill_for_good(lambda: daemon.processes(volume))
    wait_until(lambda: daemon.inspect(volume)["state"] == "failed", "the failure to be noticed")
    assert "killed" in docker.cli("volume", "inspect", volume)
    second = start(docker)
    await_writes(source)
    docker.cli("rm", "--force", first, second)
    await_references(daemon, 0)
