"""Where a log continues: after the newest record, and with losses that were not reported.

Three know of that: the files of the log, what is kept of it besides (`log_state`), and the cells of
a writer that has ended. Each may have been left behind by the others.
"""

import contextlib
import logging
from typing import NamedTuple

from fusevol.errors import FusevolError
from fusevol.logs.log_end import LogEnd, end_of_log, first_seq
from fusevol.recording.log_file import LogFile
from fusevol.recording.log_state import Known
from fusevol.recovery.log_cells import LOST, LOST_ERRNO, LOST_SINCE, SEQ

logger = logging.getLogger(__name__)


class Continuation(NamedTuple):
    """What a writer goes on with.

    Attributes:
        end: the newest record, as far as it is known.
        newest: its number at least.
        first: number of the first record in the file; 0 if there is none.
        lost: operations that no record reports.
        errno: why; 0 if that is not known, or nothing is lost.
        since_ns: when the first of them was, in nanoseconds since 1970; 0 as `errno`.
    """

    end: LogEnd
    newest: int
    first: int
    lost: int
    errno: int
    since_ns: int


def continuation(
    path: str, volume: str, file: LogFile, current: str, known: Known, cells: memoryview
) -> Continuation:
    """Find out where the log at `path` goes on.

    Args:
        path: of the log.
        volume: as it stands in records.
        file: that is being written.
        current: the way to it.
        known: what was kept besides the files.
        cells: those of `log_cells`.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: a file of the log cannot be read, and
            nothing else is known of it.
    """
    end = _end_of_files(path, volume, current, known, cells)
    first = first_in(file, current)
    newest = max(known.seq, cells[SEQ] - 1)
    # What was lost is reported by the record after the newest one, if that is there.
    untold = [(0, 0, 0)]
    if end.seq < cells[SEQ]:
        untold.append((cells[LOST], cells[LOST_ERRNO], cells[LOST_SINCE]))
    if end.seq <= known.seq:
        untold.append((known.lost, known.errno, known.since_ns))
    lost, number, since_ns = max(untold)
    if not lost:
        number = since_ns = 0
    if first and first == known.first and end.seq < newest:
        lost += newest - end.seq
    if end.seq < known.seq:
        end = LogEnd(known.seq, known.hash, b"")
    return Continuation(end, newest, first, lost, number, since_ns)


def first_in(file: LogFile, path: str) -> int:
    """Return the number of the first record in a file, to which `path` leads; 0 if unknown."""
    if file.is_file:
        with contextlib.suppress(FusevolError):
            return first_seq(path)
    return 0


def _end_of_files(path: str, volume: str, current: str, known: Known, cells: memoryview) -> LogEnd:
    try:
        return end_of_log(path, current, volume)
    except FusevolError as error:
        if not known.seq and not cells[SEQ]:
            raise
        newest = max(known.seq, cells[SEQ] - 1)
        logger.warning("%s; numbers continue after %d", error, newest)
        return LogEnd(0, b"", b"")
