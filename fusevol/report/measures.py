"""The numbers of a report, for one operation, one caller, one file, one moment."""

from collections import Counter
from dataclasses import dataclass, field

from fusevol.report.durations import percentiles_us


@dataclass(slots=True)
class Numbers:
    """What somebody did.

    Attributes:
        count: operations.
        us: how long all of them took together, in microseconds.
        errors: operations that failed.
        bytes_read, bytes_written: what reads and writes moved.
    """

    count: int = 0
    us: int = 0
    errors: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    def plus(self, other: "Numbers") -> "Numbers":
        """Return this, with `other` added to it."""
        self.count += other.count
        self.us += other.us
        self.errors += other.errors
        self.bytes_read += other.bytes_read
        self.bytes_written += other.bytes_written
        return self


@dataclass(slots=True)
class OperationNumbers(Numbers):
    """What became of one kind of operation.

    Attributes:
        count_by_us: duration -> how many took so long, as `durations.rounded` has it.
        longest_us: the longest duration.
    """

    count_by_us: Counter[int] = field(default_factory=Counter)
    longest_us: int = 0

    def percentiles_us(self, *percents: int) -> list[int]:
        """Return, for each, what so many percent do not exceed; never more than the longest."""
        found = percentiles_us(self.count_by_us, *percents)
        return [min(us, self.longest_us) for us in found]

    def plus(self, other: Numbers) -> "OperationNumbers":
        """Return this, with `other` added to it."""
        Numbers.plus(self, other)
        if isinstance(other, OperationNumbers):
            self.count_by_us.update(other.count_by_us)
            self.longest_us = max(self.longest_us, other.longest_us)
        return self


@dataclass(slots=True)
class FileNumbers:
    """What was moved into and out of a file, in bytes."""

    bytes_read: int = 0
    bytes_written: int = 0

    @property
    def moved(self) -> int:
        """Return both together."""
        return self.bytes_read + self.bytes_written

    def plus(self, other: "FileNumbers") -> "FileNumbers":
        """Return this, with `other` added to it."""
        self.bytes_read += other.bytes_read
        self.bytes_written += other.bytes_written
        return self


@dataclass(slots=True)
class FailureNumbers:
    """How often the same thing failed; first and last time of it, and the path of the last."""

    count: int
    first: str
    last: str
    path: str | None

    def plus(self, other: "FailureNumbers") -> "FailureNumbers":
        """Return this, with `other` added to it."""
        self.count += other.count
        self.first = min(self.first, other.first)
        if other.last >= self.last:
            self.last, self.path = other.last, other.path
        return self
