"""Records counted, by operation, path, process, container or user.

Exact, percentiles too: for each group all durations are kept, each value once with how often it
came. So memory grows with the number of groups and of different durations in them.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate
from operator import attrgetter
from typing import Any, Final

from fusevol.record.record import EVENTS, OK, AccessRecord

Key = Any
"""What the records of a group have in common; None where they have no such thing."""

GROUPINGS: Final = {
    "op": ("op",),
    "path": ("path",),
    "process": ("pid", "comm"),
    "container": ("container",),
    "uid": ("uid",),
}
"""Name of a way to group -> what of a record makes its key: a process is (pid, name)."""

_COUNTED: Final = ("op", "result", "us", "count", "bytes_read", "bytes_written", "lost", "time")

_EVENTS: Final = frozenset(EVENTS)


class Totals:
    """The numbers of one group.

    Attributes:
        errors: operations that failed.
        bytes_read, bytes_written: what reads and writes moved.
        count_by_us: duration in microseconds -> how many took so long.
    """

    __slots__ = ("bytes_read", "bytes_written", "count_by_us", "errors")

    def __init__(self) -> None:
        self.errors = 0
        self.bytes_read = 0
        self.bytes_written = 0
        self.count_by_us: dict[int, int] = {}

    @property
    def count(self) -> int:
        """Return how many operations there were."""
        return sum(self.count_by_us.values())

    @property
    def total_us(self) -> int:
        """Return how long all of them took together."""
        return sum(us * count for us, count in self.count_by_us.items())

    def merge(self, other: "Totals") -> None:
        """Add what `other` has counted."""
        self.errors += other.errors
        self.bytes_read += other.bytes_read
        self.bytes_written += other.bytes_written
        for us, count in other.count_by_us.items():
            self.count_by_us[us] = self.count_by_us.get(us, 0) + count

    def percentiles_us(self, *percents: int) -> list[int]:
        """Return, for each, the shortest duration that so many percent of them do not exceed."""
        durations = sorted(self.count_by_us)
        ranks = list(accumulate(self.count_by_us[us] for us in durations))
        # In whole numbers: floats miss by one now and then.
        wanted = (-(-ranks[-1] * percent // 100) for percent in percents)
        return [durations[bisect_left(ranks, rank)] for rank in wanted]


def _spread(count_by_us: dict[int, int], us: int, operations: int) -> None:
    """Count operations of which only what they took together is known: `us`."""
    operations = max(operations, 1)
    each, longer = divmod(us, operations)
    for one, count in ((each, operations - longer), (each + 1, longer)):
        if count:
            count_by_us[one] = count_by_us.get(one, 0) + count


class Summary:
    """What happened, group by group. fusevol's own events are in no group.

    Attributes:
        by: name of the grouping.
        groups: key -> numbers.
        lost: how many operations could not be recorded, according to gaps.
        first, last: times of the first and the last operation; "" if there is none.
    """

    def __init__(self, by: str) -> None:
        """Begin with nothing, grouped by one of GROUPINGS."""
        self.by = by
        self.groups: dict[Key, Totals] = {}
        self.lost = 0
        self.first = ""
        self.last = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """Return which keys of a record are looked at."""
        return (*_COUNTED, *GROUPINGS[self.by])

    def add(self, records: Iterable[AccessRecord]) -> None:
        """Add records, in the order of their times."""
        key_of: Callable[[AccessRecord], Key] = attrgetter(*GROUPINGS[self.by])
        groups = self.groups
        last = None
        # All in one place, as a call for each record would take longer than what it does.
        for record in records:
            if record.op in _EVENTS:
                self.lost += record.lost or 0
                continue
            last = record
            key = key_of(record)
            if key not in groups:
                groups[key] = Totals()
                self.first = self.first or record.time
            totals = groups[key]
            counts = totals.count_by_us
            us = record.us
            if record.count is None:
                counts[us] = counts.get(us, 0) + 1
            else:
                _spread(counts, us, record.count)
            if record.result != OK:
                totals.errors += 1
            # A release has the same bytes once more.
            elif record.op == "read":
                totals.bytes_read += record.bytes_read or 0
            elif record.op == "write":
                totals.bytes_written += record.bytes_written or 0
        if last is not None:
            self.last = last.time

    def merge(self, other: "Summary") -> None:
        """Add what `other`, with the same grouping, has counted."""
        for key, totals in other.groups.items():
            if key in self.groups:
                self.groups[key].merge(totals)
            else:
                self.groups[key] = totals
        self.lost += other.lost
        self.first = min(filter(None, (self.first, other.first)), default="")
        self.last = max(self.last, other.last)

    @property
    def count(self) -> int:
        """Return how many operations there were."""
        return sum(totals.count for totals in self.groups.values())

    def by_time(self) -> list[tuple[Key, Totals]]:
        """Return the groups, those first that took the longest altogether."""
        return sorted(self.groups.items(), key=lambda group: (-group[1].total_us, str(group[0])))
