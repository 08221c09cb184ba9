"""An engine's side of the volume plugin protocol, down to the bytes it sends."""

import json
import select
import socket
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.patience import PATIENCE_S

PODMAN_ID: Final = "2f73349cfc4630255319c6c8dfc1b46a8996ace9d14d8e07563b165915918ec2"
"""By which Podman mounts every volume (libpod/volume_internal_common.go)."""


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        headers: by their names in small letters.
    """

    status: int
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def error(self) -> str:
        """Return the error of a request that failed; fail if it says nothing, or too much."""
        assert self.status != 200, self.body
        error: str = self.body["Err"]
        assert error
        assert "\n" not in error
        assert "Traceback" not in error
        return error


def request(call: str, body: object = None, *headers: str, method: str = "POST") -> bytes:
    """Return the bytes of a request.

    Args:
        call: such as "VolumeDriver.Get".
        body: bytes, or what becomes JSON; None for no body.
        headers: lines; Host and Content-Length need not be among them.
    """
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} /{call} HTTP/1.1", *headers]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.append("Host: plugin.moby.localhost")
    if not any(line.lower().startswith("transfer-encoding") for line in headers):
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join([*lines, "", ""]).encode() + data


class Connection:
    """A connection to the plugin; blocking."""

    def __init__(self, path: Path | str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(path))
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def say_no_more(self) -> None:
        """Close the direction towards the plugin."""
        self.socket.shutdown(socket.SHUT_WR)

    def receive(self) -> Answer:
        """Return the next answer; 100 Continue is none."""
        status = self._file.readline()
        if status.startswith(b"HTTP/1.1 100 "):
            assert self._file.readline() == b"\r\n"
            status = self._file.readline()
        assert status.startswith(b"HTTP/1.1 "), status
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = self._file.read(int(headers["content-length"]))
        return Answer(int(status.split()[1]), headers, json.loads(body or b"{}"))

    def ask(self, call: str, body: object = None, *headers: str, method: str = "POST") -> Answer:
        """Send a request and return its answer."""
        self.send(request(call, body, *headers, method=method))
        return self.receive()

    def rest(self) -> bytes:
        """Return what comes until the plugin closes the connection."""
        return self._file.read()

    def await_hang_up(self) -> None:
        """Wait until the plugin has closed the connection; take nothing of what it sent."""
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        assert poll.poll(1000 * PATIENCE_S), "the plugin does not hang up"

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self.socket.close()


class Plugin:
    """An engine that connects anew for each request."""

    def __init__(self, path: Path | str) -> None:
        self.path = path

    def ask(self, call: str, body: object = None, *headers: str, method: str = "POST") -> Answer:
        """Send a request and return its answer."""
        with Connection(self.path) as connection:
            return connection.ask(call, body, *headers, method=method)

    def do(self, call: str, **said: object) -> dict[str, Any]:
        """Call the volume driver with success; return what it answered."""
        answer = self.ask(f"VolumeDriver.{call}", said)
        assert answer.status == 200, answer
        assert answer.body.get("Err", "") == ""
        return answer.body

    def refused(self, call: str, **said: object) -> str:
        """Call the volume driver without success; return its error."""
        return self.ask(f"VolumeDriver.{call}", said).error
