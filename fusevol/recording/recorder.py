"""How a request is finished, before its reply: recorded as far as that is wanted, and counted.

For each operation a function is chosen when serving begins, so that what is not asked for costs
nothing. An entry that says RECORDED was finished by an earlier worker, and is not finished again.
"""

import logging
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from fusevol.model import RecordLevel
from fusevol.record.record import OPERATIONS, AccessRecord, errno_name
from fusevol.recording.coalescing import COALESCED, ENDING, Coalescer
from fusevol.recording.filter_rules import Check
from fusevol.recording.finish import Finish
from fusevol.recording.record_filter import NEVER, RecordFilter
from fusevol.recovery.counters import LEFT_OUT, Counters
from fusevol.recovery.journal import CODES, ERRNO, LOGGING, RECORDED, SEQ, Entry

if TYPE_CHECKING:
    from fusevol.inodes.objects import Opened
    from fusevol.recording.writer import LogWriter

logger = logging.getLogger(__name__)


NOT_AT_DATA: Final = frozenset(
    ("lookup", "getattr", "readlink", "getxattr", "listxattr", "statfs", "readdir")
)
"""Operations that the level `data` leaves out: caching hides most of them anyway."""


OPENING: Final = frozenset(("open", "create", "opendir"))
"""Operations whose caller is kept, for the records of what is done with the handle."""


def finishers(
    counters: Counters,
    log: "LogWriter | None",
    level: RecordLevel,
    record_filter: RecordFilter,
    coalescer: Coalescer | None,
) -> dict[str, Finish]:
    """Return what finishes each operation."""
    if log is None:
        return {op: counting(op, counters) for op in OPERATIONS}
    left_out = NOT_AT_DATA if level is RecordLevel.DATA else ()
    found = {
        op: counting(op, counters)
        if op in left_out
        else _selected(op, counters, log, record_filter, coalescer)
        for op in OPERATIONS
    }
    if coalescer is not None:
        found |= {op: coalescer.ending(found[op]) for op in ENDING}
    return found


def recorded(
    log: "LogWriter | None", level: RecordLevel, record_filter: RecordFilter
) -> frozenset[str]:
    """Return the operations of which there may be a record."""
    if log is None:
        return frozenset()
    left_out = NOT_AT_DATA if level is RecordLevel.DATA else frozenset()
    return frozenset(op for op in OPERATIONS if record_filter.of(op) != NEVER) - left_out


def identified(log: "LogWriter | None", recorded: frozenset[str]) -> frozenset[str]:
    """Return the operations whose caller is looked up, given those that may have a record.

    An open or create shows a ring's, whatever is recorded (`Callers.is_ring`).
    """
    return recorded | (OPENING if log is not None else OPENING - {"opendir"})


def _selected(
    op: str,
    counters: Counters,
    log: "LogWriter",
    record_filter: RecordFilter,
    coalescer: Coalescer | None,
) -> Finish:
    is_wanted = record_filter.of(op)
    if is_wanted == NEVER:
        return counting(op, counters, left_out=True)
    finish = recording(op, counters, log)
    if coalescer is not None and op in COALESCED:
        finish = coalescer.coalescing(op, finish)
    if callable(is_wanted):
        return selecting(is_wanted, finish, counting(op, counters, left_out=True))
    return finish


def selecting(is_wanted: Check, finish: Finish, leave_out: Finish) -> Finish:
    """Return what finishes an operation with a record if that is wanted, else without."""

    def conclude_selected(
        entry: Entry,
        record: AccessRecord | None,
        started: int,
        number: int,
        opened: "Opened | None" = None,
    ) -> None:
        if record is not None:
            if number:
                record.result = errno_name(number)
            if not is_wanted(record):
                leave_out(entry, record, started, number, opened)
                return
        finish(entry, record, started, number, opened)

    return conclude_selected


def counting(op: str, counters: Counters, *, left_out: bool = False) -> Finish:
    """Return what finishes an operation without a record, maybe because it is `left_out`."""
    words, count = counters.words, counters.count
    code = CODES[op]
    recorded = code | RECORDED

    def finish(
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
        if left_out:
            words[LEFT_OUT] += 1
        count(code, (perf_counter_ns() - started) // 1000, number)

    return finish


def recording(op: str, counters: Counters, log: "LogWriter") -> Finish:
    """Return what finishes an operation with a record."""
    words, count, losses = counters.words, counters.count, log.losses
    code = CODES[op]
    logging_, recorded = code | LOGGING, code | RECORDED
    conclude_without = counting(op, counters)

    def finish(
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
            if losses.count:
                log.catch_up()
            words[at + ERRNO] = number
            words[at + SEQ] = log.next_seq
            words[at] = logging_
            log.append(record, started)
            words[at] = recorded
            count(code, record.us, number)
        except Exception:
            logger.exception("a record of %s could not be written", op)

    return finish
