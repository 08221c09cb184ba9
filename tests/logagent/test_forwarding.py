"""What a log gets reaches all its sinks, whatever happens to them, the agent or the worker."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusevol.errors import NotFoundError
from fusevol.logagent import status
from fusevol.logagent.backlog import REMOVED
from fusevol.logagent.forwarding import Forwarder
from fusevol.logagent.positions import Position
from fusevol.logs.log_files import first_record_in, rotated_by_fusevol
from fusevol.mounts import registry
from fusevol.recording.log_state import known_of
from tests.logagent.lines import lines
from tests.patience import PATIENCE_S
from tests.served import (
    FUSEVOL,
    Served,
    fusevol,
    is_mounted,
    needs_root,
    serve,
    status_of,
    wait_until,
)


@pytest.fixture(autouse=True)
def _directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEVOL_STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("FUSEVOL_RUNTIME_DIRECTORY", str(tmp_path / "run"))


class Receiver:
    """Listens on a Unix socket, and keeps the lines that come; reads nothing while `hangs`."""

    def __init__(self, path: Path) -> None:
        self.lines: list[bytes] = []
        self.hangs = False
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        while True:
            try:
                self._connection, _ = self._listener.accept()
            except OSError:
                return
            rest = b""
            with self._connection:
                while block := self._connection.recv(1 << 16):
                    *lines, rest = (rest + block).split(b"\n")
                    self.lines += lines
                    while self.hangs:
                        time.sleep(0.01)

    @property
    def numbers(self) -> list[int]:
        return [json.loads(line)["seq"] for line in list(self.lines)]

    def end(self) -> None:
        """Go away, as a program that has crashed: the socket stays, and refuses."""
        self.hangs = False
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with contextlib.suppress(OSError):
            if self._connection is not None:
                self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=PATIENCE_S)
        self._path.unlink()


@contextlib.contextmanager
def receiver(path: Path) -> Iterator[Receiver]:
    one = Receiver(path)
    try:
        yield one
    finally:
        with contextlib.suppress(OSError):
            one.end()


def make_directories(served: Served, count: int) -> None:
    first = len(os.listdir(served.source))
    for number in range(first, first + count):
        (served.mountpoint / str(number)).mkdir()


def await_all(served: Served, one: Receiver) -> None:
    wait_until(lambda: one.numbers[-1:] == [served.last_seq()], "all records")


@needs_root
def test_sinks_that_hang_or_are_not_there_hold_up_nobody(tmp_path: Path) -> None:
    good, hung = tmp_path / "good", tmp_path / "hung"
    sinks = f"unix:{good}+ecs@unix:{hung}+unix:{tmp_path}/nobody"
    with receiver(good) as quick, receiver(hung) as slow:
        slow.hangs = True
        with serve(tmp_path, "-o", f"sinks={sinks}") as served:
            make_directories(served, 3000)
            await_all(served, quick)
            assert quick.numbers == list(range(1, served.last_seq() + 1))
            assert len(slow.lines) < served.last_seq()

            def told() -> dict[str, status.SinkStatus]:
                agent = status.read(str(served.log))
                return {one.sink: one for one in agent.sinks} if agent else {}

            wait_until(lambda: all(one.error for one in list(told().values())[1:]), "errors")
            states = told()
            assert not states[f"unix:{good}"].error
            assert states[f"unix:{tmp_path}/nobody"].seq == 0
            assert states[f"ecs@unix:{hung}"].behind > 0
            assert "nobody, record 0" in fusevol("status").stdout
            slow.hangs = False
            wait_until(
                lambda: json.loads(slow.lines[-1])["event"]["sequence"] == served.last_seq(),
                "what the other one has got long since",
            )  # fmt: skip
        wait_until(lambda: json.loads(quick.lines[-1])["op"] == "unmount", "the last record")


@needs_root
def test_what_was_not_sent_is_sent_later(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    options = ("-o", f"rotate_size=64K,compress=zstd,sinks=unix:{path}")
    with receiver(path) as first, serve(tmp_path, *options) as served:
        make_directories(served, 300)
        await_all(served, first)
        seen = list(first.numbers)
        first.end()
        make_directories(served, 1500)
        agent = status.read(str(served.log))
        assert agent is not None
        os.kill(agent.pid, signal.SIGKILL)
        os.kill(status_of(served.mountpoint)["worker"], signal.SIGKILL)
        make_directories(served, 100)
    with receiver(path) as second:
        with serve(tmp_path, *options) as served:
            make_directories(served, 10)
        wait_until(lambda: json.loads(second.lines[-1])["op"] == "unmount", "the last record")
    # What it had got when it ended may come again, as nobody can know; nothing is missing.
    assert second.numbers[0] <= seen[-1] + 1
    assert second.numbers == list(range(second.numbers[0], second.numbers[-1] + 1))


@needs_root
@pytest.mark.parametrize("is_killed", [False, True], ids=["ended", "killed"])
def test_what_waits_at_the_end_of_a_mount_is_told_and_sent_by_the_next(
    tmp_path: Path, is_killed: bool
) -> None:
    path = tmp_path / "socket"
    options = ("-o", f"rotate_size=64K,sinks=unix:{path}")
    with receiver(path) as one:
        one.hangs = True
        with serve(tmp_path, *options) as served:
            make_directories(served, 3000)
            wait_until(lambda: status.read(str(served.log)) is not None, "an agent")
            agent = status.read(str(served.log))
            assert agent is not None
            messages = Path(registry.messages_path(str(served.mountpoint)))
            wait_until(lambda: "accepts no records" in messages.read_text(), "a full socket")
            # As if nothing had been said: who keeps the mount then removes the file.
            os.truncate(messages, 0)
        if is_killed:
            assert agent.process.signal(signal.SIGKILL)
        wait_until(lambda: not agent.process.runs(), "the end of the agent")
        left = known_of(str(served.log)).seq
        assert len(one.lines) < left
        if not is_killed:
            assert f" to {left}; they are sent when" in messages.read_text()
        one.hangs = False
        with serve(tmp_path, *options) as served:
            (served.mountpoint / "more").mkdir()
        last = known_of(str(served.log)).seq
        wait_until(lambda: last in one.numbers, "the last record")
        # What was read after the first agent had ended came twice.
        assert set(one.numbers) == set(range(1, last + 1))
    wait_until(lambda: not messages.exists(), "nothing that was said")


@needs_root
def test_all_is_sent_where_the_agent_was_killed_right_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with receiver(path) as one:
        with serve(tmp_path, "-o", f"sinks=unix:{path}") as served:
            make_directories(served, 10)
            killed: set[int] = set()
            # Each death makes the keeper wait longer before it starts another.
            for _ in range(3):
                agent = wait_until(lambda: agent_but(killed, served), "an agent")
                agent.process.signal(signal.SIGKILL)
                killed.add(agent.pid)
        wait_until(lambda: served.last_seq() in one.numbers, "the last record")
        assert set(one.numbers) == set(range(1, served.last_seq() + 1))


def agent_but(others: set[int], served: Served) -> status.AgentStatus | None:
    """Return the agent of a log, unless it is one of others."""
    agent = status.read(str(served.log))
    return agent if agent is not None and agent.pid not in others else None


def test_a_sink_that_is_back_when_the_mount_ends_gets_the_rest(tmp_path: Path) -> None:
    log, path = tmp_path / "data.log", tmp_path / "socket"
    log.write_bytes(lines(1, 100))
    forwarder = Forwarder(f"unix:{path}", str(log), Position(0))
    forwarder.start()
    wait_until(lambda: forwarder.error, "nobody to send to")
    with receiver(path) as back:
        forwarder.end()
        forwarder.join()
        wait_until(lambda: len(back.lines) == 100, "all records")
    assert back.numbers == list(range(1, 101))


@needs_root
def test_what_was_rotated_away_still_counts_as_waiting(tmp_path: Path) -> None:
    with serve(tmp_path, "-o", f"rotate_size=4K,sinks=unix:{tmp_path}/nobody") as served:
        make_directories(served, 100)

        def behind() -> int:
            agent = status.read(str(served.log))
            return agent.sinks[0].behind if agent else 0

        wait_until(lambda: behind() > 100, "a sink that is behind")
        wait_until(lambda: rotated_by_fusevol(str(served.log)), "rotation")
        wait_until(lambda: served.log.exists() and not served.log.stat().st_size, "a new file")
        time.sleep(2.5)
        assert behind() > 100


def kill_agent(served: Served) -> None:
    """Kill the agent, and wait for the next one."""
    wait_until(lambda: status.read(str(served.log)) is not None, "an agent")
    agent = status.read(str(served.log))
    assert agent is not None
    os.kill(agent.pid, signal.SIGKILL)

    def is_replaced() -> bool:
        other = status.read(str(served.log))
        return other is not None and other.pid != agent.pid

    wait_until(is_replaced, "another agent", 60)


def rotate(served: Served) -> None:
    """As logrotate with `rotate 1` does."""
    os.replace(served.log, f"{served.log}.1")
    fusevol("reload", "--logs", str(served.mountpoint))
    wait_until(served.log.exists, "a new file")


def numbers_of_all(served: Served) -> int:
    """The number of the newest record, wherever it is."""
    return known_of(str(served.log)).seq


def oldest_number(served: Served) -> int:
    """The number of the first record in the oldest file; 0 while a file is being renamed."""
    with contextlib.suppress(NotFoundError):
        for path in (*rotated_by_fusevol(str(served.log)), str(served.log)):
            if (first := first_record_in(path)) is not None:
                return first.seq
    return 0


def account(lines: list[bytes], begin: int) -> int:
    """Check that each number from `begin` on is that of a record or in a gap, exactly once.

    Returns the last one. Gaps that the log itself has are records.
    """
    last = begin - 1
    for line in lines:
        record = json.loads(line)
        if record["op"] == "gap" and record["reason"] == REMOVED:
            assert record["seq"] == last + record["lost"]
        else:
            assert record["seq"] == last + 1
        last = record["seq"]
    return last


@needs_root
@pytest.mark.parametrize("was_there", [True, False])
@pytest.mark.parametrize("goes_on", [True, False])
def test_what_was_rotated_away_while_nobody_listened_is_told(
    tmp_path: Path, was_there: bool, goes_on: bool
) -> None:
    path = tmp_path / "socket"
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(receiver(path)) if was_there else None
        served = stack.enter_context(serve(tmp_path, "-o", f"sinks=unix:{path}"))
        make_directories(served, 5)
        got = []
        if first is not None:
            await_all(served, first)
            first.end()
            got = first.lines
        make_directories(served, 5)
        rotate(served)
        make_directories(served, 5)
        rotate(served)
        if goes_on:
            make_directories(served, 5)
        else:
            # What is left nobody sends, so the log says nothing any more.
            os.unlink(f"{served.log}.1")
        with receiver(path) as second:
            wait_until(
                lambda: bool(second.numbers) and second.numbers[-1] >= numbers_of_all(served),
                "all, or a gap", 60,
            )  # fmt: skip
            lines = got + second.lines
    assert any(REMOVED.encode() in line for line in lines)
    assert account(lines, 1) >= 30


@needs_root
def test_what_the_agent_itself_removes_is_told_to_a_sink_that_is_behind(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    options = ("-o", f"rotate_size=16K,keep_files=2,sinks=unix:{path}")
    with serve(tmp_path, *options) as served:
        make_directories(served, 100)
        # Where a new sink begins outlives its agent.
        kill_agent(served)

        def is_first_file_gone() -> bool:
            make_directories(served, 100)
            return oldest_number(served) > 1

        wait_until(is_first_file_gone, "that files are removed", 60)
        newest = numbers_of_all(served)
        with receiver(path) as one:
            wait_until(lambda: bool(one.numbers) and one.numbers[-1] >= newest, "all", 30)
            lines = list(one.lines)
    assert any(b"removed before" in line for line in lines)
    account(lines, 1)


@needs_root
def test_all_is_sent_where_it_is_not_known_what_was(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    options = ("-o", f"sinks=unix:{path}")
    with receiver(path) as one, serve(tmp_path, *options) as served:
        make_directories(served, 5)
        await_all(served, one)
    (positions,) = (tmp_path / "state/logs").glob("*.json")
    positions.write_bytes(b"")
    with receiver(path) as one, serve(tmp_path, *options) as served:
        await_all(served, one)
        account(one.lines, 1)


@needs_root
def test_a_sink_that_is_added_begins_there(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serve(tmp_path) as served:
        make_directories(served, 50)
    before = served.last_seq()
    with receiver(path) as added, serve(tmp_path, "-o", f"sinks=unix:{path}") as served:
        await_all(served, added)
        assert added.numbers[0] == before + 1
        assert json.loads(added.lines[0])["op"] == "mount"


@needs_root
def test_standard_output_beside_the_file(tmp_path: Path) -> None:
    source, mountpoint, log = tmp_path / "source", tmp_path / "volume", tmp_path / "log"
    source.mkdir()
    mountpoint.mkdir()
    arguments = (source, mountpoint, "--log", log, "-o", "sinks=text@stdout")
    refused = fusevol("mount", *arguments, check=False)
    assert refused.returncode == 2
    assert "the sink stdout requires `fusevol mount -f`" in refused.stderr
    with subprocess.Popen([FUSEVOL, "mount", "-f", *arguments], stdout=subprocess.PIPE) as process:
        wait_until(lambda: is_mounted(mountpoint), "the mount")
        (mountpoint / "x").mkdir()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE_S)
    lines = output.decode().splitlines()
    assert len(lines) == len(log.read_bytes().splitlines())
    assert any(" mkdir ok " in line and "path=/x" in line for line in lines)
