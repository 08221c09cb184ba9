"""How it stands with a mount's log, as others read it from the recovery state."""

import os
from typing import Final, NamedTuple

from fusevol.recovery.region import (
    HEADER_WORDS,
    LOG_FAULT,
    LOG_OPENED,
    LOG_UNTOLD,
    LOG_WANTED,
    WORD,
    check_header,
)

_UNTOLD_WORDS: Final = 3
_FAULT_WORDS: Final = 3


class LogTrouble(NamedTuple):
    """How it stands.

    Attributes:
        wanted: how often the log was to be reopened; opened: for how many of these it was tried.
        fault: errno of why that failed; 0 if it did not.
        is_nameless: it was deleted, and there is no other file to write to.
        untold: operations without a record that the log has not reported yet, because of `errno`,
            the first at `since_ns`.
        deleted_ns: when it was found to have been deleted while it was written; 0 for never.
    """

    wanted: int
    opened: int
    fault: int
    is_nameless: bool
    untold: int
    errno: int
    since_ns: int
    deleted_ns: int

    @property
    def is_stopped(self) -> bool:
        """Whether operations go unrecorded, or are refused."""
        return self.is_nameless or self.untold > 0


def read(fd: int) -> LogTrouble:
    """Return how it stands, given the recovery state, from any process.

    Raises:
        FusevolError: it is not a state, or of another version.
    """
    check_header(fd)
    words = memoryview(os.pread(fd, HEADER_WORDS * WORD, 0)).cast("Q")
    untold, number, since_ns = words[LOG_UNTOLD : LOG_UNTOLD + _UNTOLD_WORDS]
    fault, nameless, deleted_ns = words[LOG_FAULT : LOG_FAULT + _FAULT_WORDS]
    return LogTrouble(
        words[LOG_WANTED], words[LOG_OPENED], fault, bool(nameless), untold, number, since_ns,
        deleted_ns,
    )  # fmt: skip
