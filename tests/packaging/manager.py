"""The part of systemd that a service talks to: sd_notify(3), with its store of descriptors."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.served import wait_until

_LAUNCH: Final = """\
import os, sys
fds = [os.dup2(int(fd), 100 + number) for number, fd in enumerate(sys.argv[1].split(",")) if fd]
for number, fd in enumerate(fds):
    os.dup2(fd, 3 + number)
    os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Starts a program with descriptors from 3 on, as sd_listen_fds(3) wants them."""


class Manager:
    """Takes what services say.

    Attributes:
        said: the messages in their order, but for those about descriptors.
        stored: the descriptors that were given to it, by name.
    """

    def __init__(self, directory: Path) -> None:
        self.said: list[str] = []
        self.stored: dict[str, int] = {}
        self._address = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._address)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def start(
        self, *words: str | Path, env: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a service, with the descriptors that were stored before."""
        names = list(self.stored)
        fds = [self.stored[name] for name in names]
        passed = {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(names)} if fds else {}
        return subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, ",".join(map(str, fds)), *map(str, words)],
            pass_fds=fds,
            env={**os.environ, **(env or {}), **passed, "NOTIFY_SOCKET": self._address},
        )  # fmt: skip

    def await_message(self, message: str, times: int = 1) -> None:
        """Wait until a service has said something."""
        wait_until(lambda: self.said.count(message) >= times, f"{message}; said: {self.said}")

    def _listen(self) -> None:
        while True:
            content, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
            if content == b"":
                return
            lines = dict(line.split("=", 1) for line in content.decode().splitlines())
            name = lines.get("FDNAME", "")
            if "FDSTORE" in lines:
                self.stored[name] = fds[0]
            elif "FDSTOREREMOVE" in lines:
                os.close(self.stored.pop(name))
            else:
                self.said.append(content.decode())

    def close(self) -> None:
        """Stop listening, and close what is stored."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", self._address)
        self._thread.join()
        self._socket.close()
        for fd in self.stored.values():
            os.close(fd)


@contextmanager
def managing(directory: Path) -> Iterator[Manager]:
    """Manage services inside the block."""
    manager = Manager(directory)
    try:
        yield manager
    finally:
        manager.close()
