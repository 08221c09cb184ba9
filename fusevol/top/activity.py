"""How often something was done, how long it took and how much it moved."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from fusevol.recovery.counters import BUCKETS, OperationCounts, Snapshot

Operations = dict[str, "Activity"]
"""Name of the operation -> what was done of it."""


@dataclass(slots=True)
class Activity:
    """Operations of some kind within some time.

    Attributes:
        count: how many; not whole where part of them stands for all.
        bytes_read, bytes_written: what reads and writes moved.
        total_us: microseconds that all took together.
        buckets: how many took 2**(n-1) to 2**n - 1 us, at the place n.
        failures: errno name -> how many failed with it.
    """

    count: float = 0
    bytes_read: float = 0
    bytes_written: float = 0
    total_us: float = 0
    buckets: list[float] = field(default_factory=lambda: [0] * BUCKETS)
    failures: dict[str, float] = field(default_factory=dict)

    @property
    def errors(self) -> float:
        """Return how many failed."""
        return sum(self.failures.values())

    def add(self, other: "Activity") -> None:
        """Add `other`."""
        self.count += other.count
        self.bytes_read += other.bytes_read
        self.bytes_written += other.bytes_written
        self.total_us += other.total_us
        for place, count in enumerate(other.buckets):
            if count:
                self.buckets[place] += count
        for name, count in other.failures.items():
            self.failures[name] = self.failures.get(name, 0) + count

    def scale(self, times: float) -> None:
        """Let it stand for so many times as much."""
        self.count *= times
        self.bytes_read *= times
        self.bytes_written *= times
        self.total_us *= times
        self.buckets = [count * times for count in self.buckets]
        self.failures = {name: count * times for name, count in self.failures.items()}

    def percentile_us(self, percent: float) -> float | None:
        """Return about how long `percent` of a hundred operations took at most; None for none.

        Within a bucket durations are taken to be spread evenly, so it may be off by half.
        """
        rank = sum(self.buckets) * percent / 100
        for place, count in enumerate(self.buckets):
            if count and rank <= count:
                low, high = 1 << place >> 1, 1 << place
                return low + (high - low) * rank / count
            rank -= count
        return None


def total(parts: Iterable[Activity]) -> Activity:
    """Return all of them together."""
    result = Activity()
    for part in parts:
        result.add(part)
    return result


def between(older: Snapshot, newer: Snapshot) -> Operations:
    """Return what was done between two looks at the counters of a mount."""
    nothing = OperationCounts(0, 0, (0,) * BUCKETS, {})
    found: Operations = {}
    for op, now in newer.operations.items():
        before = older.operations.get(op, nothing)
        if now.count > before.count:
            found[op] = _difference(before, now)
    # The counters do not say which calls moved the bytes, but there is only one that can.
    if "read" in found:
        found["read"].bytes_read = newer.bytes_read - older.bytes_read
    if "write" in found:
        found["write"].bytes_written = newer.bytes_written - older.bytes_written
    return found


def _difference(before: OperationCounts, now: OperationCounts) -> Activity:
    failures = {name: count - before.errors.get(name, 0) for name, count in now.errors.items()}
    return Activity(
        count=now.count - before.count,
        total_us=now.us_total - before.us_total,
        buckets=[new - old for old, new in zip(before.buckets, now.buckets, strict=True)],
        failures={name: count for name, count in failures.items() if count},
    )
