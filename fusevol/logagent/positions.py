"""What an agent keeps on disk: how far each sink has got."""

import fcntl
import os
import time
from typing import Final

import msgspec

from fusevol.accesslog.lines import LogFile
from fusevol.accesslog.names import encode_name
from fusevol.accesslog.reader import parse
from fusevol.accesslog.record import MalformedRecordError
from fusevol.config import state_directory
from fusevol.errors import FusevolError
from fusevol.linux.files import replace
from fusevol.logagent.status import file_name

_LOCK_S: Final = 15.0
_POLL_S: Final = 0.05


class Positions(msgspec.Struct):
    """The numbers of the records that sinks got last.

    Attributes:
        log: path of the log.
        sinks: sink, as it was named -> `seq`.
    """

    log: str
    sinks: dict[str, int] = {}


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
            raise FusevolError(f"cannot keep positions in {directory}: {error.strerror}") from None
        self._await_lock()

    def _await_lock(self) -> None:
        end = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise FusevolError(f"another agent is at work on {self._log}") from None
                time.sleep(_POLL_S)

    def close(self) -> None:
        """Let another agent have it."""
        os.close(self._lock)

    def load(self) -> dict[str, int]:
        """Return the position of each sink; nothing where there was no agent before."""
        try:
            with open(self._path, "rb") as file:
                return msgspec.json.decode(file.read(), type=Positions).sinks
        except (FileNotFoundError, msgspec.DecodeError):
            return {}

    def save(self, sinks: dict[str, int]) -> None:
        """Replace what is kept, atomically; OSError if that fails."""
        positions = Positions(encode_name(os.fsencode(self._log)), sinks)
        replace(self._path, msgspec.json.encode(positions))


def seq_before(log: str, since: str) -> int:
    """Return the number of the last record before time `since`; 0 if all are later.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: the log cannot be read.
    """
    earliest = None
    with LogFile(log) as file:
        for _offset, line in file.lines_backwards():
            try:
                record = parse(line)
            except MalformedRecordError:
                continue
            if record.time < since:
                return record.seq
            earliest = record.seq
    return 0 if earliest is None else earliest - 1
