"""How a log ends, in whichever of its files its newest record is."""

import contextlib
from typing import Final, NamedTuple

from fusevol.errors import NotFoundError
from fusevol.logs.compression import DamagedError, is_compressed
from fusevol.logs.lines import MAX_LINE_BYTES, LogFile, is_file
from fusevol.logs.log_files import decompressed_blocks, first_record_in, newest_first
from fusevol.logs.reader import first_record, last_record
from fusevol.record.bounds import LONGEST_LINE_BYTES
from fusevol.record.links import OPENING, hash_of, is_hashed

_TAIL_BYTES: Final = 4 * LONGEST_LINE_BYTES
"""How much of the end is looked at first: several records."""
_LONGEST_TAIL_BYTES: Final = 2 * MAX_LINE_BYTES
"""How much if that does not do, as the log was begun before records had a bound."""


class LogEnd(NamedTuple):
    """The end of a log file.

    Attributes:
        seq: number of the last record; 0 if there is none.
        hash: of the last record that has one; empty if there is none near the end.
        after: what follows that record.
    """

    seq: int
    hash: bytes
    after: bytes


def end_of_file(path: str) -> LogEnd:
    """Return how one file ends, compressed or not; a pipe has no end.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: it cannot be read.
    """
    if not is_file(path):
        return LogEnd(0, b"", b"")
    tail = _tail(path, _TAIL_BYTES)
    if is_compressed(path):
        last = first_record(reversed(tail.split(b"\n")))
    else:
        last = last_record(path)
    seq = last.seq if last is not None else 0
    hash_, after = _last_hash(tail)
    if not hash_ and OPENING in tail:
        hash_, after = _last_hash(_tail(path, _LONGEST_TAIL_BYTES))
    return LogEnd(seq, hash_, after)


def _last_hash(tail: bytes) -> tuple[bytes, bytes]:
    """Return the hash of the last record that has one, and what follows; empty if none has."""
    found = tail.rfind(OPENING)
    while found >= 0:
        begin, end = tail.rfind(b"\n", 0, found) + 1, tail.find(b"\n", found)
        if end >= 0 and is_hashed(tail[begin:end]):
            return hash_of(tail[begin:end]), tail[end + 1 :]
        found = tail.rfind(OPENING, 0, found)
    return b"", b""


def first_seq(path: str) -> int:
    """Return the number of the first record of a file, compressed or not; 0 if there is none.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: it cannot be read.
    """
    first = first_record_in(path)
    return first.seq if first is not None else 0


def end_of_log(path: str, current: str | None = None, volume: str | None = None) -> LogEnd:
    """Return how the log at `path` ends: that file, or if it is new the newest one rotated of it.

    Args:
        path: of the log.
        current: another way to the file at `path`.
        volume: whose log it is, as records have it; None if that is not known.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: it cannot be read.
    """
    with contextlib.suppress(NotFoundError):
        end = end_of_file(current or path)
        if end.seq:
            return end
    for beginning in newest_first(path, volume):
        with contextlib.suppress(NotFoundError):
            end = end_of_file(beginning.path)
            if end.seq:
                return end
    return LogEnd(0, b"", b"")


def _tail(path: str, length: int) -> bytes:
    """Return the last `length` bytes of a file, fewer if it is shorter."""
    if not is_compressed(path):
        with LogFile(path) as file:
            size = file.stat().st_size
            return file.read_at(max(0, size - length), length)
    tail = b""
    with contextlib.suppress(DamagedError):
        for block in decompressed_blocks(path):
            tail = (tail + block)[-length:]
    return tail
