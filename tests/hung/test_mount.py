"""A source that answers late or not at all holds up who waits for it, and nobody else."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from fusevol.linux.mounts import MNT_DETACH, umount
from fusevol.mounts import registry
from tests.hung.file_system import CONTENT
from tests.hung.source import SlowSource, await_ends, slow_source
from tests.patience import PATIENCE_S, PROMPT_S
from tests.served import Served, fusevol, is_mounted, needs_root, runs, serve

pytestmark = needs_root

STAT: Final = "print(os.stat(path).st_size)"
READ: Final = "print(open(path).read(), end='')"
WRITE: Final = "open(path, 'wb', buffering=0).write(b'x')"

CALLS: Final = {"lookup": STAT, "read": READ, "write": WRITE}


@dataclass
class Hung:
    """A source of which a client waits for an answer, its mount, and a mount beside it."""

    source: SlowSource
    served: Served
    other: Served
    client: "subprocess.Popen[str]"

    @property
    def processes(self) -> tuple[int, int]:
        """The daemon and the worker, as long as they run."""
        status = self.served.status()
        return status["pid"], status["worker"]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SlowSource]:
    with slow_source(tmp_path / "slow") as source:
        yield source


@pytest.fixture
def served(source: SlowSource, tmp_path: Path) -> Iterator[Served]:
    """A mount of the slow source."""
    (tmp_path / "source").symlink_to(source.path)
    with serve(tmp_path) as served:
        yield served


@contextmanager
def hanging(source: SlowSource, served: Served, directory: Path, op: str) -> Iterator[Hung]:
    """A client that waits for `op`, which hangs in the source; or is stopped: `op` is "stopped"."""
    with ExitStack() as stack:
        (directory / "other/source").mkdir(parents=True)
        (directory / "other/source/file").write_text("other")
        other = stack.enter_context(serve(directory / "other"))
        if op == "stopped":
            source.stop()
            waiting = stack.enter_context(source.client(STAT, served.mountpoint / "file"))
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(0.5)
        else:
            waiting = stack.enter_context(
                source.client(CALLS[op], served.mountpoint / f"{op}-hang")
            )
            source.await_line(op)
        yield Hung(source, served, other, waiting)


each_way = pytest.mark.parametrize("op", [*CALLS, "stopped"])
"""Calls that cannot be killed while they wait, calls that can, and those that nobody has taken."""


@pytest.fixture
def hung(source: SlowSource, served: Served, tmp_path: Path, op: str) -> Iterator[Hung]:
    with hanging(source, served, tmp_path, op) as hung:
        yield hung


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"took {took:.1f} s"


def assert_error(waiting: "subprocess.Popen[str]", seconds: float = PATIENCE_S) -> None:
    """Check that a client's call fails in time, as one on a mount that is gone."""
    _, said = waiting.communicate(timeout=seconds)
    assert "not connected" in said or "connection abort" in said, said


def test_a_late_answer_is_waited_for(served: Served) -> None:
    began = time.monotonic()
    assert (served.mountpoint / "read-1").read_bytes() == CONTENT
    assert time.monotonic() - began >= 1
    (read,) = [r for r in served.records() if r["op"] == "read" and r.get("bytes_read")]
    assert read["us"] >= 1_000_000


@each_way
def test_others_are_served(hung: Hung, op: str) -> None:
    with within(PROMPT_S):
        for number in range(50):
            path = hung.other.mountpoint / f"new-{number}"
            path.write_text("text")
            assert path.read_text() == "text"
            path.unlink()
    with within(PROMPT_S):
        assert hung.served.status()["worker"] != hung.other.status()["worker"]
        fusevol("reload", "--logs", hung.served.mountpoint)
        fusevol("log", "tail", "--mount", hung.served.mountpoint)
    assert hung.client.poll() is None


@each_way
def test_the_answer_comes_when_the_source_gives_it(hung: Hung, op: str) -> None:
    hung.source.release()
    said = {"lookup": "8\n", "stopped": "8\n", "read": CONTENT.decode()}.get(op, "")
    assert hung.client.communicate(timeout=PATIENCE_S) == (said, "")
    assert (hung.served.mountpoint / "file").read_bytes() == CONTENT


@each_way
def test_unmounting_tells_who_waits(hung: Hung, op: str) -> None:
    with within(PROMPT_S):
        done = fusevol("unmount", hung.served.mountpoint, check=False)
    assert done.returncode == 1
    if op in ("lookup", "stopped"):
        # Calls by a path have nothing open, and operations on names wait for each other.
        assert "in use by pending system calls and does not answer; " in done.stderr
    else:
        assert f"in use by python ({hung.client.pid}); " in done.stderr


@each_way
def test_lazy_lets_who_waits_finish(hung: Hung, op: str) -> None:
    processes = hung.processes
    with within(PROMPT_S):
        fusevol("unmount", "--lazy", hung.served.mountpoint)
    assert not is_mounted(hung.served.mountpoint)
    assert hung.client.poll() is None
    hung.source.release()
    assert hung.client.communicate(timeout=PATIENCE_S)[1] == ""
    await_ends(*processes)
    last = hung.served.records()[-1]
    assert (last["op"], last["result"]) == ("unmount", "ok")


@each_way
def test_force_ends_it_for_who_waits(hung: Hung, op: str) -> None:
    processes = hung.processes
    with within(PROMPT_S):
        fusevol("unmount", "--force", hung.served.mountpoint)
    assert not is_mounted(hung.served.mountpoint)
    assert_error(hung.client)
    # All is said that there is to say, although the source does not answer.
    assert registry.get(str(hung.served.mountpoint)) is None
    last = hung.served.records()[-1]
    assert (last["op"], last["result"]) == ("unmount", "EIO")
    assert "in use" in last["reason"]
    hung.source.release()
    await_ends(*processes)
    assert hung.served.records()[-1] == last
    os.unlink(registry.messages_path(str(hung.served.mountpoint)))


@each_way
def test_the_daemon_ends_when_asked_to(hung: Hung, op: str) -> None:
    daemon, worker = hung.processes
    os.kill(daemon, signal.SIGTERM)
    # Five seconds for clients to finish, and five for the worker.
    with within(PROMPT_S):
        assert_error(hung.client)
        await_ends(daemon)
    assert not is_mounted(hung.served.mountpoint)
    assert registry.get(str(hung.served.mountpoint)) is None
    last = hung.served.records()[-1]
    assert (last["op"], last["result"]) == ("unmount", "EIO")
    assert "stopped while in use" in last["reason"]
    hung.source.release()
    await_ends(worker)
    assert hung.served.records()[-1] == last
    # It had something to say, which is kept.
    os.unlink(registry.messages_path(str(hung.served.mountpoint)))


def test_a_source_that_is_unmounted_underneath_is_served_on(
    source: SlowSource, served: Served
) -> None:
    """fusevol serves a copy of the source's mount."""
    umount(str(source.path), MNT_DETACH)
    assert list(source.path.iterdir()) == []
    assert (served.mountpoint / "file").read_bytes() == CONTENT
    (served.mountpoint / "file").write_bytes(b"new")
    assert (served.mountpoint / "file").read_bytes() == b"new"
    assert source.process.poll() is None
    served.unmount()
    # That was the last use of it.
    assert source.process.wait(PATIENCE_S) == 0


def test_a_source_whose_server_dies_gives_errors_until_the_mount_is_ended(
    source: SlowSource, served: Served
) -> None:
    status = served.status()
    source.process.kill()
    source.process.wait()
    for _ in range(3):
        with pytest.raises(OSError, match=r"not connected|connection abort"):
            (served.mountpoint / "file").read_bytes()
    assert runs(status["worker"])
    served.unmount()
    assert not runs(status["pid"])
    last = served.records()[-1]
    assert (last["op"], last["result"]) == ("unmount", "ok")
