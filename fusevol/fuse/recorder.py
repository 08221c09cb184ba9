"""How a request is concluded, before its reply: recorded as far as that is wanted, and counted.

For each operation a function is chosen when serving begins, so that what is not asked for costs
nothing. An entry that says RECORDED was concluded by an earlier worker, and is not concluded again.
"""

import logging
from collections.abc import Iterable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

from fusevol.accesslog.record import OPERATIONS, AccessRecord, errno_name
from fusevol.recovery.counters import Counters
from fusevol.recovery.journal import CODES, ERRNO, LOGGING, RECORDED, SEQ, Entry

if TYPE_CHECKING:
    from fusevol.accesslog.writer import LogWriter
    from fusevol.inodes.opened import Opened

logger = logging.getLogger(__name__)


class Conclude(Protocol):
    """Concludes a request.

    Args:
        entry: of the journal.
        record: what to write; None where the caller or the handle is not known.
        started: `time.perf_counter_ns()` at the beginning.
        number: errno of the result, 0 for success.
        opened: the open file or directory that it was on, if it was on one.
    """

    def __call__(
        self,
        entry: Entry,
        record: AccessRecord | None,
        started: int,
        number: int,
        opened: "Opened | None" = None,
    ) -> None: ...


def conclusions(
    counters: Counters, log: "LogWriter | None", logged: Iterable[str]
) -> dict[str, Conclude]:
    """Return what concludes each operation: a record for those `logged`, and a count for all."""
    recorded = frozenset(logged) if log is not None else frozenset()
    return {
        op: recording(op, counters, log) if log is not None and op in recorded
        else counting(op, counters)
        for op in OPERATIONS
    }  # fmt: skip


def counting(op: str, counters: Counters) -> Conclude:
    """Return what concludes an operation without a record."""
    words, count = counters.words, counters.count
    code = CODES[op]
    recorded = code | RECORDED

    def conclude(
        entry: Entry,
        record: AccessRecord | None,
        started: int,
        number: int,
        opened: "Opened | None" = None,
    ) -> None:
        at = entry.at
        if words[at] == recorded:
            return
        words[at + ERRNO] = number
        words[at] = recorded
        count(code, (perf_counter_ns() - started) // 1000, number)

    return conclude


def recording(op: str, counters: Counters, log: "LogWriter") -> Conclude:
    """Return what concludes an operation with a record."""
    words, count = counters.words, counters.count
    code = CODES[op]
    logging_, recorded = code | LOGGING, code | RECORDED
    conclude_without = counting(op, counters)

    def conclude(
        entry: Entry,
        record: AccessRecord | None,
        started: int,
        number: int,
        opened: "Opened | None" = None,
    ) -> None:
        at = entry.at
        if words[at] == recorded:
            return
        if record is None:
            conclude_without(entry, record, started, number)
            return
        try:
            if number:
                record.result = errno_name(number)
            if log.lost:
                log.catch_up()
            words[at + ERRNO] = number
            words[at + SEQ] = log.next_seq
            words[at] = logging_
            log.append(record, started)
            words[at] = recorded
            count(code, record.us, number)
        except Exception:
            logger.exception("a record of %s could not be written", op)

    return conclude
