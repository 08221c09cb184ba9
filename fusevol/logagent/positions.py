"""What an agent keeps on disk: how far each sink has got."""

import fcntl
import os
import time
from typing import Final

import msgspec

from fusevol.errors import FusevolError
from fusevol.linux.files import replace
from fusevol.logagent.status import file_name
from fusevol.names import encode_name
from fusevol.options.config import state_directory

_LOCK_S: Final = 15.0
_POLL_S: Final = 0.05


class Position(msgspec.Struct, frozen=True):
    """How far a sink has got.

    Attributes:
        seq: number of the record that it got last; 0 if it has to get all of them.
        time: of that record; empty if it got none, or a gap that stands for it.
        volume: that the record names.
        newest: highest number that the log was seen to have.
    """

    seq: int
    time: str = ""
    volume: str = ""
    newest: int = 0


class Positions(msgspec.Struct):
    """How far the sinks of a log have got.

    Attributes:
        log: path of the log.
        sinks: sink, as it was named -> position, or only its `seq`, as it was kept once.
    """

    log: str
    sinks: dict[str, Position | int] = {}


class PositionsFile:
    """The file with the positions of one log. One agent has it at a time."""

    def __init__(self, log: str) -> None:
        """Open and lock it, waiting for an agent that is just ending.

        Raises:
            FusevolError: another agent has it, or it cannot be opened.
        """
        directory = os.path.join(state_directory(), "logs")
        self._path = os.path.join(directory, file_name(log))
        self._log = log
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._lock = os.open(self._path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FusevolError(f"cannot save positions in {directory}: {error.strerror}") from None
        self._await_lock()

    def _await_lock(self) -> None:
        end = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise FusevolError(f"another agent is already working on {self._log}") from None
                time.sleep(_POLL_S)

    def close(self) -> None:
        """Let another agent have it."""
        os.close(self._lock)

    def load(self) -> dict[str, Position] | None:
        """Return the position of each sink; None if they are damaged.

        Nothing where there was no agent before.
        """
        try:
            with open(self._path, "rb") as file:
                kept = msgspec.json.decode(file.read(), type=Positions).sinks
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return {
            sink: Position(position) if isinstance(position, int) else position
            for sink, position in kept.items()
        }

    def save(self, sinks: dict[str, Position]) -> None:
        """Replace what is kept, atomically; OSError if that fails."""
        positions = Positions(encode_name(os.fsencode(self._log)), {**sinks})
        replace(self._path, msgspec.json.encode(positions), durable=True)
