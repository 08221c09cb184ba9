"""What clients saw finish, written down outside of the volume, to be held against its log."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

SUFFIX: Final = ".account"


class Done(msgspec.Struct, array_like=True, frozen=True):
    """One operation that a client saw finish.

    `op`, `path`, `more` and `result` are as the access log has them: `more` is the new path of a
    rename or link, or the name of an attribute. `size` is that of a read or write. `start` and
    `end` are in seconds of CLOCK_MONOTONIC, which all processes share.
    """

    op: str
    path: str
    more: str | None
    result: str
    size: int | None
    start: float
    end: float


class Account:
    """What one client did. Written by that client only."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._encoder = msgspec.json.Encoder()

    def write(self, done: Done) -> None:
        self._file.write(self._encoder.encode(done) + b"\n")

    def close(self) -> None:
        self._file.close()


def read_accounts(directory: Path) -> Iterator[Done]:
    """Yield what all clients did that wrote into `directory`, one after the other."""
    decoder = msgspec.json.Decoder(Done)
    for path in sorted(directory.rglob(f"*{SUFFIX}")):
        with path.open("rb") as file:
            yield from map(decoder.decode, file)
