"""Counts records into an `Aggregate`, as fast as Python can.

Whatever a record has to go through one by one costs ten seconds for ten million. So most is done
for many records at once by what runs in C (attrgetter, Counter, filters), and what that has counted
is added to the aggregate once for each key and some thousand records.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from operator import add, attrgetter
from typing import Any, Final

from fusevol.record import record as records_of
from fusevol.record.record import OK, OPERATIONS, AccessRecord
from fusevol.record.text import CHANGES
from fusevol.report.aggregate import MISSES, Aggregate, CallerOnVolume, FailedPath, Failure
from fusevol.report.durations import coarse, rounded
from fusevol.report.measures import FailureNumbers, FileNumbers, Numbers, OperationNumbers
from fusevol.report.timeline import second_of

_OPENING: Final = (
    "open", "release", "flush", "fsync", "opendir", "releasedir", "fsyncdir",
)  # fmt: skip
CLASS_OF: Final = {
    **dict.fromkeys(OPERATIONS, "look"),
    **dict.fromkeys(_OPENING, "open"),
    **dict.fromkeys((*CHANGES, "create"), "change"),
    "read": "read",
    "write": "write",
}
"""Operation -> what it counts for in a chart of what happened when."""

_EVENTS: Final = frozenset(records_of.EVENTS)
_REGULAR: Final = frozenset(("checkpoint",))
"""Events that come all the time and say nothing to the reader of a report."""

_DATA: Final = frozenset(("read", "write"))
_SPECIAL: Final = _EVENTS | _DATA

_PENDING: Final = 20_000
"""How many records are counted until that is added to the aggregate."""

_op: Final = attrgetter("op")
_us: Final = attrgetter("us")
_time: Final = attrgetter("time")
_path: Final = attrgetter("path")
_op_and_us: Final = attrgetter("op", "us")
# Tuples as they come from here equal those with names, and are made in half the time.
_caller: Final[Callable[[AccessRecord], Any]] = attrgetter(*CallerOnVolume._fields)
_failure: Final[Callable[[AccessRecord], Any]] = attrgetter(*Failure._fields)
_failed_path: Final[Callable[[AccessRecord], Any]] = attrgetter(*FailedPath._fields)


class RecordCounter:
    """Adds records to an aggregate. Call `flush` at the end, it is not complete before."""

    def __init__(self, aggregate: Aggregate) -> None:
        self._aggregate = aggregate
        self._second = 0
        self._pending = 0
        self._clear()

    def _clear(self) -> None:
        self._callers: dict[CallerOnVolume, Numbers] = {}
        self._paths: Counter[str | None] = Counter()
        self._moved: dict[str | None, FileNumbers] = {}
        self._reach: dict[str | None, int] = {}
        self._failures: dict[Failure, FailureNumbers] = {}
        self._failed_paths: Counter[FailedPath] = Counter()
        self._durations: Counter[tuple[str, int]] = Counter()

    def add(self, records: Sequence[AccessRecord]) -> None:
        """Add records in the order of the log."""
        special: Sequence[AccessRecord] = [
            record
            for record in records
            if record.op in _SPECIAL or record.result != OK or record.count is not None
        ]
        if not _EVENTS.isdisjoint(map(_op, special)):
            self._add_events([record for record in special if record.op in _EVENTS])
            records = [record for record in records if record.op not in _EVENTS]
            special = [record for record in special if record.op not in _EVENTS]
        if not records:
            return
        self._pending += len(records)
        if self._pending > _PENDING:
            self.flush()
        whole = self._aggregate
        single = records
        if gathered := [record for record in special if record.count is not None]:
            # They come late: up to a minute after what happened behind them.
            gathered, special, records = (
                sorted(some, key=_time) for some in (gathered, special, records)
            )
            single = [record for record in records if record.count is None]
        whole.saw(records[0].time, records[-1].time)
        whole.newest.add(records, sorted_=True)
        whole.slowest.add(single)
        self._paths.update(map(_path, records))
        self._add_callers(records)
        for second, run in whole.timeline.runs(single):
            self._go_to(second)
            self._durations.update(map(_op_and_us, run))
        for second, run in whole.timeline.runs(gathered):
            self._go_to(second)
            self._add_gathered(run)
        for second, run in whole.timeline.runs(special):
            self._add_failures(second, [record for record in run if record.result != OK])
            self._add_data(second, [record for record in run if record.op in _DATA])

    def _go_to(self, second: int) -> None:
        if second != self._second:
            self._flush_durations()
            self._second = second

    def flush(self) -> None:
        """Put what was counted into the aggregate."""
        whole = self._aggregate
        self._pending = 0
        self._flush_durations()
        for group, key_of in whole.groups():
            group.add(_grouped(self._callers, key_of).items(), Numbers.plus)
        whole.paths.add(self._paths.items(), add)
        whole.moved.add(self._moved.items(), FileNumbers.plus)
        whole.reach.add(self._reach.items(), max)
        self._flush_failures()
        self._clear()

    def _add_events(self, records: list[AccessRecord]) -> None:
        whole = self._aggregate
        whole.events.add([record for record in records if record.op not in _REGULAR])
        whole.event_counts.update(map(_op, records))
        for record in records:
            if record.lost:
                whole.lost += record.lost
                whole.timeline.span(second_of(record.since or record.time)).lost += record.lost

    def _add_callers(self, records: Sequence[AccessRecord]) -> None:
        callers = self._callers
        for caller, us in zip(map(_caller, records), map(_us, records), strict=True):
            numbers = callers.get(caller)
            if numbers is None:
                numbers = callers[caller] = Numbers()
            numbers.count += 1
            numbers.us += us

    def _add_gathered(self, records: Sequence[AccessRecord]) -> None:
        """Add what records say of more than one operation, besides the first one of each."""
        for record in records:
            operations = max(record.count or 1, 1)
            # How long they took together is all that is known.
            each, longer = divmod(record.us, operations)
            self._durations[record.op, each] += operations - longer
            if longer:
                self._durations[record.op, each + 1] += longer
            self._callers[_caller(record)].count += operations - 1
            self._paths[record.path] += operations - 1

    def _add_failures(self, second: int, records: list[AccessRecord]) -> None:
        if not records:
            return
        self._failed_paths.update(map(_failed_path, records))
        for record in records:
            self._callers[_caller(record)].errors += 1
        real = [record for record in records if (record.op, record.result) not in MISSES]
        failures = self._failures
        for record in real:
            numbers = FailureNumbers(1, record.time, record.time, record.path)
            failure = failures.get(key := _failure(record))
            failures[key] = numbers if failure is None else failure.plus(numbers)
        self._aggregate.failed.add(real)
        self._aggregate.timeline.span(second).errors += len(real)

    def _add_data(self, second: int, records: list[AccessRecord]) -> None:
        bytes_read = bytes_written = 0
        for record in records:
            if record.result != OK:
                continue
            caller = self._callers[_caller(record)]
            path = record.path
            file = self._moved.get(path)
            if file is None:
                file = self._moved[path] = FileNumbers()
            if record.op == "read":
                moved = record.bytes_read or 0
                bytes_read += moved
                caller.bytes_read += moved
                file.bytes_read += moved
            else:
                moved = record.bytes_written or 0
                bytes_written += moved
                caller.bytes_written += moved
                file.bytes_written += moved
            reach = (record.offset or 0) + moved
            if moved and reach > self._reach.get(path, 0):
                self._reach[path] = reach
        if bytes_read or bytes_written:
            span = self._aggregate.timeline.span(second)
            span.bytes_read += bytes_read
            span.bytes_written += bytes_written
            moved_by = (
                ("read", OperationNumbers(bytes_read=bytes_read)),
                ("write", OperationNumbers(bytes_written=bytes_written)),
            )
            self._aggregate.ops.add(
                (item for item in moved_by if item[1].bytes_read or item[1].bytes_written),
                OperationNumbers.plus,
            )

    def _flush_durations(self) -> None:
        if not self._durations:
            return
        span = self._aggregate.timeline.span(self._second)
        ops: dict[str, OperationNumbers] = {}
        for (op, us), count in self._durations.items():
            numbers = ops.get(op)
            if numbers is None:
                numbers = ops[op] = OperationNumbers()
            numbers.count += count
            numbers.us += us * count
            numbers.count_by_us[rounded(us)] += count
            if us > numbers.longest_us:
                numbers.longest_us = us
            span.count_by_us[coarse(us)] += count
        for op, numbers in ops.items():
            span.counts[CLASS_OF.get(op, "look")] += numbers.count
        self._aggregate.ops.add(ops.items(), OperationNumbers.plus)
        self._durations = Counter()

    def _flush_failures(self) -> None:
        whole = self._aggregate
        results: Counter[tuple[str, str]] = Counter()
        errors: Counter[str] = Counter()
        failed: dict[FailedPath, int] = {}
        missed: dict[FailedPath, int] = {}
        for path, count in self._failed_paths.items():
            results[path[:2]] += count
            errors[path[0]] += count
            (missed if path[:2] in MISSES else failed)[path] = count
        whole.results.add(results.items(), add)
        whole.ops.add(
            ((op, OperationNumbers(errors=count)) for op, count in errors.items()),
            OperationNumbers.plus,
        )
        whole.failures.add(self._failures.items(), FailureNumbers.plus)
        whole.failed_paths.add(failed.items(), add)
        whole.missed_paths.add(missed.items(), add)


def _grouped(
    callers: dict[CallerOnVolume, Numbers], key_of: Callable[[CallerOnVolume], object]
) -> dict[object, Numbers]:
    groups: dict[object, Numbers] = {}
    for caller, numbers in callers.items():
        key = key_of(caller)
        group = groups.get(key)
        if group is None:
            group = groups[key] = Numbers()
        group.plus(numbers)
    return groups
