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

from fusevol.accesslog.log_files import rotated_by_fusevol
from fusevol.logagent import status
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
    assert "stdout takes -f" in refused.stderr
    with subprocess.Popen([FUSEVOL, "mount", "-f", *arguments], stdout=subprocess.PIPE) as process:
        wait_until(lambda: is_mounted(mountpoint), "the mount")
        (mountpoint / "x").mkdir()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE_S)
    lines = output.decode().splitlines()
    assert len(lines) == len(log.read_bytes().splitlines())
    assert any(" mkdir ok " in line and "path=/x" in line for line in lines)
