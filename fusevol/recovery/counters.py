"""Counters of a mount: what was done, how long it took, how often it failed.

They lie in the recovery state, so that they go on counting when a worker is succeeded, and other
processes read them without asking it.

    64 words   totals: see BYTES_READ and its like
    then       64 words for each operation: at place n how many took 2**(n-1) up to 2**n - 1 us,
               at place 63 the sum of their microseconds
    then       192 words for each operation: how many failed, at the place of the errno

What the log itself counts stands in the cells of its writer. The worker counts an operation when it
is concluded, before its reply; one that a successor serves once more is not counted again. A worker
that is killed at the very moment of counting may leave that operation out.
"""

import os
from dataclasses import dataclass
from typing import Final

from fusevol.errors import FusevolError
from fusevol.record.record import errno_name
from fusevol.recovery.journal import CODES
from fusevol.recovery.region import (
    COUNTERS,
    HEADER_WORDS,
    LOG_BYTES,
    LOG_LOST,
    LOG_RECORDS,
    RESTARTS,
    WORD,
    Region,
    check_header,
)

BUCKETS: Final = 32
"""Bucket n counts operations of 2**(n-1) up to 2**n - 1 us; 0 those below 1 us, the last one all
that took longer."""

BYTES_READ: Final = COUNTERS
"""Bytes that clients have read; BYTES_WRITTEN: written."""
BYTES_WRITTEN: Final = COUNTERS + 1
LEFT_OUT: Final = COUNTERS + 2
"""Operations that a filter kept from the log."""
KNOWN_INODES: Final = COUNTERS + 3
"""Inodes that the kernel knows; OPEN_FILES, OPEN_DIRECTORIES: handles that clients have."""
OPEN_FILES: Final = COUNTERS + 4
OPEN_DIRECTORIES: Final = COUNTERS + 5

_TOTALS: Final = 64
_TIMES: Final = 64
_SUM: Final = 63
_ERRNOS: Final = 192
_CODES: Final = 32
_TIMES_AT: Final = COUNTERS + _TOTALS
_ERRORS_AT: Final = _TIMES_AT + _CODES * _TIMES
_WORDS: Final = _ERRORS_AT + _CODES * _ERRNOS - COUNTERS


class Counters:
    """The counters of a region, for the worker that writes them."""

    __slots__ = ("words",)

    def __init__(self, region: Region) -> None:
        self.words = region.words

    def count(self, code: int, us: int, number: int) -> None:
        """Count an operation.

        Args:
            code: of the operation, as in `CODES`.
            us: how long it took.
            number: errno of its result, 0 for success.
        """
        words = self.words
        at = _TIMES_AT + code * _TIMES
        words[at + us.bit_length()] += 1
        words[at + _SUM] += us
        if number:
            words[_ERRORS_AT + code * _ERRNOS + number % _ERRNOS] += 1


@dataclass(frozen=True, slots=True)
class OperationCounts:
    """One kind of operation.

    Attributes:
        count: how many were concluded, failed ones included.
        us_total: microseconds that they took together.
        buckets: how many took how long, see BUCKETS.
        errors: errno name -> how many failed with it.
    """

    count: int
    us_total: int
    buckets: tuple[int, ...]
    errors: dict[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The counters of a mount, since it was mounted.

    Attributes:
        operations: name of the operation -> its counts; without those that never took place.
        bytes_read, bytes_written: by clients, as far as the file system saw it.
        log_bytes, records: written to the log, fusevol's own events included.
        lost: operations without a record, because the log could not be written.
        left_out: operations that a filter kept from the log.
        known_inodes, open_files, open_directories: now.
        restarts: how often a worker was succeeded by another.
    """

    operations: dict[str, OperationCounts]
    bytes_read: int
    bytes_written: int
    log_bytes: int
    records: int
    lost: int
    left_out: int
    known_inodes: int
    open_files: int
    open_directories: int
    restarts: int


def read(fd: int) -> Snapshot:
    """Return the counters in the recovery state `fd`, from any process, while it is written.

    Each number is right for some moment during the call; the sum of the buckets is `count`.

    Raises:
        FusevolError: it is not a state, or of another version.
    """
    check_header(fd)
    # By read(2): to read a hole through a mapping would fill it.
    header = _words(fd, 0, HEADER_WORDS)
    words = _words(fd, COUNTERS, _WORDS)
    if len(header) < HEADER_WORDS or len(words) < _WORDS:
        raise FusevolError("the recovery state is of another version")
    return Snapshot(
        operations={op: counts for op, code in CODES.items() if (counts := _counts(words, code))},
        bytes_read=words[BYTES_READ - COUNTERS],
        bytes_written=words[BYTES_WRITTEN - COUNTERS],
        log_bytes=header[LOG_BYTES],
        records=header[LOG_RECORDS],
        lost=header[LOG_LOST],
        left_out=words[LEFT_OUT - COUNTERS],
        known_inodes=words[KNOWN_INODES - COUNTERS],
        open_files=words[OPEN_FILES - COUNTERS],
        open_directories=words[OPEN_DIRECTORIES - COUNTERS],
        restarts=header[RESTARTS],
    )


def _words(fd: int, at: int, count: int) -> memoryview:
    return memoryview(os.pread(fd, count * WORD, at * WORD)).cast("Q")


def _counts(words: memoryview, code: int) -> OperationCounts | None:
    at = _TIMES_AT - COUNTERS + code * _TIMES
    times = words[at : at + _TIMES].tolist()
    buckets = (*times[: BUCKETS - 1], sum(times[BUCKETS - 1 : _SUM]))
    count = sum(buckets)
    if not count:
        return None
    at = _ERRORS_AT - COUNTERS + code * _ERRNOS
    failed = enumerate(words[at : at + _ERRNOS].tolist())
    errors = {errno_name(number): times for number, times in failed if times}
    return OperationCounts(count, times[_SUM], buckets, errors)
