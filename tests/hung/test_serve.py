"""`fusevol serve` with a volume whose source hangs: all else is answered, and it ends when told."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines.daemon import Daemon, plain_daemon
from tests.hung.file_system import CONTENT
from tests.hung.source import SlowSource, slow_source
from tests.patience import PATIENCE_S, PROMPT_S
from tests.served import is_mounted, needs_root, runs, wait_until

pytestmark = needs_root

_READ = "print(open(path).read(), end='')"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SlowSource]:
    with slow_source(tmp_path / "slow") as source:
        yield source


@pytest.fixture
def daemon(source: SlowSource, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with a volume "hung" of the slow source, and another, "data"."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("content")
    with plain_daemon("idle_timeout = 0.5\n") as daemon:
        daemon.create("hung", source.path)
        daemon.create("data", tmp_path / "source")
        try:
            yield daemon
        finally:
            source.release()
            for name in ("hung", "data"):
                daemon.cli("volume", "release", name, "--force")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"took {took:.1f} s"


def assert_others_are_served(daemon: Daemon) -> None:
    """Check that the daemon answers, and that another volume can be mounted and used."""
    with within(PROMPT_S):
        assert daemon.volumes() == ["data", "hung"]
        assert daemon.inspect("hung")["name"] == "hung"
        with daemon.client() as client:
            client.mount("data", "another")
            assert (daemon.mount_point("data") / "file").read_text() == "content"
            client.unmount("data", "another")


@pytest.mark.parametrize("op", ["lookup", "read"])
def test_others_are_served_while_a_client_waits(
    daemon: Daemon, source: SlowSource, op: str
) -> None:
    with daemon.client() as client:
        client.mount("hung", "one")
    with source.client(_READ, daemon.mount_point("hung") / f"{op}-hang") as waiting:
        source.await_line(op)
        assert_others_are_served(daemon)
        assert waiting.poll() is None
        source.release()
        assert waiting.communicate(timeout=PATIENCE_S) == (CONTENT.decode(), "")


def test_others_are_served_while_a_source_does_not_take_requests(
    daemon: Daemon, source: SlowSource, tmp_path: Path
) -> None:
    source.stop()
    with within(PROMPT_S):
        said = daemon.refused("volume", "create", "more", "--source", str(source.path))
        assert f"source {source.path} does not answer" in said
    assert_others_are_served(daemon)


@pytest.mark.parametrize("op", ["lookup", "read"])
def test_a_volume_that_hangs_is_ended_by_force_and_can_be_had_again(
    daemon: Daemon, source: SlowSource, op: str
) -> None:
    place = daemon.mount_point("hung")
    with daemon.client() as client:
        worker = client.mount("hung", "one").worker
        with source.client(_READ, place / f"{op}-hang") as waiting:
            source.await_line(op)
            with within(PROMPT_S):
                daemon.cli("unmount", "--force", place)
            _, said = waiting.communicate(timeout=PATIENCE_S)
            assert "not connected" in said or "connection abort" in said, said
        assert not is_mounted(place)
        assert_others_are_served(daemon)
        source.release()
        wait_until(lambda: not runs(worker), "end of the worker")
        wait_until(lambda: client.inspect("hung").state != "serving", "notice of its end")
        client.mount("hung", "two")
        assert (place / "file").read_bytes() == CONTENT


def test_a_volume_can_have_a_deadline(daemon: Daemon, source: SlowSource) -> None:
    daemon.cli("volume", "update", "hung", "-o", "deadline=1", "-o", "strict=true")
    assert daemon.inspect("hung")["deadline"] == 1.0
    assert daemon.inspect("hung")["strict"] is True
    assert "deadline       1 s\n" in daemon.cli("volume", "inspect", "hung")
    with daemon.client() as client:
        client.mount("hung", "one")
    with source.client(_READ, daemon.mount_point("hung") / "lookup-hang") as waiting:
        assert "Input/output error" in waiting.communicate(timeout=PATIENCE_S)[1]
    late = [r for r in daemon.records("hung") if r.get("reason") == "deadline"]
    assert all(r["result"] == "EIO" for r in late)
    # Whoever looks at all mounts of the machine meanwhile is given up on as well.
    late = [r for r in late if r["path"] != "/"]
    assert [(r["op"], r["path"]) for r in late] == [("lookup", "/lookup-hang")]


@pytest.mark.parametrize("op", ["lookup", "read"])
def test_the_daemon_ends_and_is_started_again(daemon: Daemon, source: SlowSource, op: str) -> None:
    with daemon.client() as client:
        worker = client.mount("hung", "one").worker
    with source.client(_READ, daemon.mount_point("hung") / f"{op}-hang") as waiting:
        source.await_line(op)
        with within(2 * PROMPT_S):
            daemon.stop()
        assert runs(worker)
        daemon.start()
        assert daemon.inspect("hung")["worker"] == worker
        assert_others_are_served(daemon)
        source.release()
        assert waiting.communicate(timeout=PATIENCE_S) == (CONTENT.decode(), "")


def test_a_daemon_that_is_killed_is_started_again(daemon: Daemon, source: SlowSource) -> None:
    with daemon.client() as client:
        client.mount("hung", "one")
    with source.client(_READ, daemon.mount_point("hung") / "lookup-hang") as waiting:
        source.await_line("lookup")
        daemon.kill()
        with within(2 * PROMPT_S):
            daemon.start()
        assert_others_are_served(daemon)
        source.release()
        assert waiting.communicate(timeout=PATIENCE_S) == (CONTENT.decode(), "")
