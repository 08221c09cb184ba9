"""A receiver of records, and what it has to have got in the end."""

import contextlib
import json
import socket
import threading
from pathlib import Path
from typing import Any, Final, Self

from tests.served import wait_until

_PATIENCE_S: Final = 180.0
_SHOWN: Final = 10


class Sink:
    """Takes records on a stream socket, from one agent after the other, in a thread of its own.

    Attributes:
        numbers: of the records that came, or that a `gap` record tells of.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.numbers: set[int] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._listen, name="sink")

    def __enter__(self) -> Self:
        self._socket.bind(str(self.path))
        self._socket.listen()
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        # Ends accept(2).
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def missing(self, log: set[int]) -> list[str]:
        """Return which records of a log neither came nor are told of by a gap, after a while."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: log <= self.numbers, "records at the sink", _PATIENCE_S)
        missing = sorted(log - self.numbers)
        return [f"{len(missing)} did not come to the sink: {missing[:_SHOWN]}"] if missing else []

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection, connection.makefile("rb") as lines:
                    self._take(lines)

    def _take(self, lines: Any) -> None:
        for line in lines:
            if not line.endswith(b"\n"):
                continue  # the agent was killed, and the next one sends it again
            record = json.loads(line)
            first = record["seq"] - (record["lost"] - 1 if record["op"] == "gap" else 0)
            self.numbers.update(range(first, record["seq"] + 1))
