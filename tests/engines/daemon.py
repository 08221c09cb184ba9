"""`fusevol serve` for tests: its own directories, told ready by itself, and gone afterwards."""

import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from fusevol.server.control import Client
from tests.engines.machine import command, end, mounts_below, workspace
from tests.served import FUSEVOL, Record, read_log, wait_until
from tests.turns import ONE_PLUGIN, turns

PLUGIN_SOCKET: Final = Path("/run/docker/plugins/fusevol.sock")
"""Where dockerd looks; the path is built into it."""


class Daemon:
    """A `fusevol serve` that has the state, runtime and log directories to itself."""

    def __init__(self, directory: Path, config: str = "") -> None:
        """Prepare; `start` starts it.

        Args:
            directory: holds all that it writes but the plugin's socket.
            config: text of its configuration.
        """
        self.directory = directory
        self.env = {
            f"FUSEVOL_{name.upper()}_DIRECTORY": str(directory / name)
            for name in ("state", "runtime", "log")
        }
        for name in ("state", "runtime", "log"):
            (directory / name).mkdir(mode=0o700)
        self.configure(config)
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, config: str) -> None:
        """Write the configuration; the daemon reads it when it starts, and after SIGHUP."""
        (self.directory / "fusevol.toml").write_text(config)

    @property
    def pid(self) -> int:
        """The process id of the daemon."""
        assert self._process
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the daemon runs now."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the daemon and wait until it says that it is ready (sd_notify(3))."""
        address = self.directory / "notify"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(str(address))
            with (self.directory / "messages").open("ab") as messages:
                self._process = subprocess.Popen(
                    [FUSEVOL, "serve", "--config", self.directory / "fusevol.toml"],
                    stdin=subprocess.DEVNULL, stdout=messages, stderr=messages,
                    env={**os.environ, **self.env, "NOTIFY_SOCKET": str(address)},
                    start_new_session=True,
                )  # fmt: skip
            wait_until(lambda: self._said_ready(receiver), "READY=1 of fusevol serve")

    def _said_ready(self, receiver: socket.socket) -> bool:
        assert self._process
        assert self._process.poll() is None, f"fusevol serve ended: {self.messages()}"
        if not select.select([receiver], [], [], 0.1)[0]:
            return False
        return b"READY=1" in receiver.recv(4096).split(b"\n")

    def messages(self) -> str:
        """Return what the daemon said so far."""
        return (self.directory / "messages").read_text(errors="replace")

    def stop(self) -> None:
        """End the daemon as a service manager does: SIGTERM, then wait."""
        assert self._process
        ended = end(self._process.pid)
        status = self._process.wait()
        assert ended, f"fusevol serve did not end: {self.messages()[-2000:]}"
        assert status == 0, f"fusevol serve ended with {status}: {self.messages()[-2000:]}"

    def kill(self) -> None:
        """End the daemon by SIGKILL; its workers are not told."""
        assert self._process
        end(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    @staticmethod
    def words(*words: str | Path) -> list[str]:
        """Return the command line of a command of fusevol; it needs `env`."""
        return [FUSEVOL, *map(str, words)]

    def cli(self, *words: str | Path, check: bool = True) -> str:
        """Run a command of fusevol with this daemon's directories; return what it printed."""
        return command(FUSEVOL, *words, env=self.env, check=check).stdout.strip()

    def said(self, *words: str | Path) -> str:
        """Run a command, which has to succeed; return what it said on stderr."""
        return command(FUSEVOL, *words, env=self.env).stderr.strip()

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Talk to the control socket inside the block."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.env.items():
                patch.setenv(name, value)
            with Client() as client:
                yield client

    def refused(self, *words: str | Path) -> str:
        """Run a command, which has to fail with one line; return that line."""
        done = command(FUSEVOL, *words, env=self.env, check=False)
        assert done.returncode != 0, f"{words} succeeded: {done.stdout}"
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.strip()

    def create(self, name: str, source: Path, *options: str) -> str:
        """Make a volume of a source; return its name."""
        self.cli("volume", "create", name, "--source", source, *options)
        return name

    def inspect(self, name: str) -> dict[str, Any]:
        """Return the state of a volume."""
        found = json.loads(self.cli("volume", "inspect", name, "--json"))
        return dict(found[0] if isinstance(found, list) else found)

    def processes(self, name: str) -> tuple[int, int]:
        """Return the keeper and the worker of a volume."""
        state = self.inspect(name)
        return state["keeper"], state["worker"]

    def references(self, name: str) -> dict[str, int]:
        """Return who uses a volume, and how often."""
        return dict(self.inspect(name)["references"])

    def states(self) -> list[dict[str, Any]]:
        """Return the states of all volumes."""
        return list(json.loads(self.cli("volume", "ls", "--json")))

    def volumes(self) -> list[str]:
        """Return the names of all volumes."""
        return [state["name"] for state in self.states()]

    def records(self, name: str) -> list[Record]:
        """Return what is in a volume's access log."""
        return read_log(self.log_path(name))

    def log_path(self, name: str) -> Path:
        """Return the access log of a volume."""
        return self.directory / "log" / f"{name}.log"

    def mount_point(self, name: str) -> Path:
        """Return where a volume is mounted on the host, when it is."""
        return self.directory / "runtime/volumes" / name

    def mounted(self) -> list[str]:
        """Return the mount points of volumes that are mounted on the host."""
        return mounts_below(self.directory / "runtime/volumes")

    def container(self, name: str) -> dict[str, Any]:
        """Return what `fusevol ps` tells of a container of `fusevol run`."""
        for found in json.loads(self.cli("ps", "--json")):
            if found["name"] == name:
                return dict(found)
        raise AssertionError(f"no container {name}")

    def close(self) -> None:
        """End the daemon; the workers and mounts have to end with it."""
        if self._process is None:
            return
        if not self.is_running:
            self.start()
        for name in self.volumes():
            assert self.references(name) == {}, f"{name} is still referred to"
            self.cli("volume", "rm", name)
        self.stop()


@contextmanager
def plugin_directory() -> Iterator[None]:
    """Have the fixed place of the plugin's socket inside the block."""
    turns.assert_taken(ONE_PLUGIN)
    made = [path for path in (PLUGIN_SOCKET.parent, PLUGIN_SOCKET.parents[1]) if not path.exists()]
    PLUGIN_SOCKET.parent.mkdir(parents=True, exist_ok=True)
    PLUGIN_SOCKET.unlink(missing_ok=True)
    try:
        yield
    finally:
        PLUGIN_SOCKET.unlink(missing_ok=True)
        for path in made:
            if not any(path.iterdir()):
                path.rmdir()


@contextmanager
def plain_daemon(config: str = "") -> Iterator[Daemon]:
    """A `fusevol serve` without the plugin inside the block."""
    with workspace("serve") as directory:
        yield from _serving(Daemon(directory, f"{config}\n[docker]\nenabled = false\n"))


@contextmanager
def daemon() -> Iterator[Daemon]:
    """A `fusevol serve` with the plugin's socket inside the block."""
    with plugin_directory(), workspace("serve") as directory:
        yield from _serving(Daemon(directory))


def _serving(served: Daemon) -> Iterator[Daemon]:
    try:
        served.start()
        yield served
    except BaseException:
        if served.is_running:
            served.kill()
        raise
    served.close()
