"""What was written to a log that has lost its name: brought into the file that follows it.

Removing a log that is being written removes its records on purpose, except those written
since; and compressing a log reads it up to some record, and may remove some after that.
"""

import errno
import logging
import os
from collections.abc import Iterator

from fusevol.errors import FusevolError
from fusevol.logs.follow import GrowingLog
from fusevol.logs.log_end import end_of_log, first_seq
from fusevol.logs.reader import Skipped

logger = logging.getLogger(__name__)


def first_unnamed(path: str, volume: str, nameless: str, unseen: int) -> int:
    """Return the number of the first record that is in no file with a name but should be.

    Args:
        path: of the log.
        volume: as it stands in records.
        nameless: a way to the file that has lost its name.
        unseen: number of the first record that was written since it was last seen to have one.

    What the files of the log do not show is taken to be `unseen`.
    """
    try:
        end = end_of_log(path, volume=volume).seq
        first = first_seq(nameless)
    except FusevolError:
        return unseen
    # There is a copy of it, up to there: compressed, most often.
    return end + 1 if end >= max(1, first) else unseen


def bring_over(nameless: str, seq: int, fd: int) -> tuple[int, int]:
    """Write the records from number `seq` on to another file.

    Returns:
        The number that follows the last one written, and the errno of what ended it, EIO if there
        is none. No part of a record is left behind.
    """
    following, number = seq, errno.EIO
    try:
        for written in _moved(nameless, seq, fd):
            following = written + 1
    except OSError as error:
        number = error.errno or errno.EIO
    except FusevolError as error:
        logger.error("%s", error)
    return following, number


def _moved(nameless: str, seq: int, fd: int) -> Iterator[int]:
    with GrowingLog(nameless, Skipped()) as log:
        log.skip_to(seq - 1)
        for line, record in log.appended(is_complete=True):
            if record.seq >= seq:
                _write_whole(fd, line + b"\n")
                yield record.seq


def _write_whole(fd: int, line: bytes) -> None:
    written = os.write(fd, line)
    if written != len(line):
        os.ftruncate(fd, os.fstat(fd).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
