"""A program that takes records on a Unix socket."""

import contextlib
import socket
import threading
from pathlib import Path
from typing import Self


class Receiver:
    """Keeps the lines that come, from any number of connections, while it is there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[bytes] = []
        self._lock = threading.Lock()
        self._begin()

    @property
    def lines(self) -> list[bytes]:
        """What came so far."""
        with self._lock:
            return list(self._lines)

    def come(self) -> None:
        """Be there again."""
        self._begin()

    def go(self) -> None:
        """Go away, as a program that has crashed: the socket stays, and refuses."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for connection, thread in self._connections:
            # The other side may be gone.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()
            connection.close()

    def _begin(self) -> None:
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._connections: list[tuple[socket.socket, threading.Thread]] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.go()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._receive, args=(connection,))
            self._connections.append((connection, thread))
            thread.start()

    def _receive(self, connection: socket.socket) -> None:
        rest = b""
        while block := connection.recv(1 << 16):
            *lines, rest = (rest + block).split(b"\n")
            with self._lock:
                self._lines += lines
