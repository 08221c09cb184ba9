"""What a report shows of some records: everything that is counted, in bounded memory.

Counts by operation and by time are exact. Where there may be any number of keys (files, processes,
failures), the lighter ones are given up, as `Heaviest` has it.
"""

from collections import Counter
from collections.abc import Callable
from operator import add, attrgetter, itemgetter
from typing import Any, Final, NamedTuple

from fusevol.report.heaviest import Heaviest
from fusevol.report.kept import Kept
from fusevol.report.measures import FailureNumbers, FileNumbers, Numbers, OperationNumbers
from fusevol.report.timeline import Timeline

NEWEST: Final = 15_000
FAILED: Final = 4_000
SLOWEST: Final = 500
EVENTS: Final = 500
"""How many single records are kept of each kind."""

MISSES: Final = frozenset((("lookup", "ENOENT"), ("getxattr", "ENODATA")))
"""What fails all the time and harms nobody: somebody looked whether something is there."""

_FILES: Final = 50_000
_CALLERS: Final = 20_000
_GROUPS: Final = 5_000

_count: Final = attrgetter("count")
_age: Final = attrgetter("time", "seq")


class CallerOnVolume(NamedTuple):
    """An actor, and the volume."""

    volume: str
    uid: int | None
    pid: int | None
    comm: str | None
    container: str | None


class Failure(NamedTuple):
    """What failed, why, to whom."""

    op: str
    result: str
    comm: str | None
    uid: int | None
    container: str | None


class FailedPath(NamedTuple):
    """What failed, why, on which path."""

    op: str
    result: str
    path: str | None


Groups = Heaviest[Any, Numbers]


class Aggregate:
    """All that a report counts.

    Attributes:
        ops: operation -> numbers.
        results: (operation, error) -> how many failed so.
        volumes, users, containers, programs: name -> numbers.
        processes: Caller -> numbers.
        paths: path -> how many operations.
        moved: path -> bytes.
        reach: path -> one more than the last byte that was read or written.
        failures: Failure -> how often, without misses: look-ups of what does not exist.
        failed_paths, missed_paths: FailedPath -> how often, of failures and of misses.
        timeline: what happened when.
        newest, failed, slowest, events: single records; of events those that come now and then.
        event_counts: event -> how many.
        lost: operations that could not be recorded.
        first, last: times of the first and the last operation; "" if there is none.
    """

    def __init__(self) -> None:
        self.ops: Heaviest[str, OperationNumbers] = Heaviest(_GROUPS, _count)
        self.results: Heaviest[tuple[str, str], int] = Heaviest(_GROUPS, int)
        self.volumes: Groups = Heaviest(_GROUPS, _count)
        self.users: Groups = Heaviest(_GROUPS, _count)
        self.containers: Groups = Heaviest(_GROUPS, _count)
        self.programs: Groups = Heaviest(_GROUPS, _count)
        self.processes: Groups = Heaviest(_CALLERS, _count)
        self.paths: Heaviest[str | None, int] = Heaviest(_FILES, int)
        self.moved: Heaviest[str | None, FileNumbers] = Heaviest(_FILES, attrgetter("moved"))
        self.reach: Heaviest[str | None, int] = Heaviest(_FILES, int)
        self.failures: Heaviest[Failure, FailureNumbers] = Heaviest(_CALLERS, _count)
        self.failed_paths: Heaviest[FailedPath, int] = Heaviest(_CALLERS, int)
        self.missed_paths: Heaviest[FailedPath, int] = Heaviest(_CALLERS, int)
        self.timeline = Timeline()
        self.newest = Kept(NEWEST, _age)
        self.failed = Kept(FAILED, _age)
        self.slowest = Kept(SLOWEST, attrgetter("us"))
        self.events = Kept(EVENTS, _age)
        self.event_counts: Counter[str] = Counter()
        self.lost = 0
        self.first = ""
        self.last = ""

    @property
    def count(self) -> int:
        """Return how many operations there were."""
        return sum(numbers.count for numbers in self.ops.values.values())

    @property
    def missed_count(self) -> int:
        """Return how many failures only mean that something is not there."""
        return sum(self.results.values.get(miss, 0) for miss in MISSES)

    def saw(self, first: str, last: str) -> None:
        """Take note of the times of operations."""
        self.first = min(filter(None, (self.first, first)), default="")
        self.last = max(self.last, last)

    def merge(self, other: "Aggregate") -> None:
        """Add what `other` has counted; `other` is of no use after that."""
        self.ops.merge(other.ops, OperationNumbers.plus)
        self.results.merge(other.results, add)
        for (mine, _), (theirs, _) in zip(self.groups(), other.groups(), strict=True):
            mine.merge(theirs, Numbers.plus)
        self.paths.merge(other.paths, add)
        self.moved.merge(other.moved, FileNumbers.plus)
        self.reach.merge(other.reach, max)
        self.failures.merge(other.failures, FailureNumbers.plus)
        self.failed_paths.merge(other.failed_paths, add)
        self.missed_paths.merge(other.missed_paths, add)
        self.timeline.merge(other.timeline)
        self.newest.merge(other.newest)
        self.failed.merge(other.failed)
        self.slowest.merge(other.slowest)
        self.events.merge(other.events)
        self.event_counts.update(other.event_counts)
        self.lost += other.lost
        self.saw(other.first, other.last)

    def groups(self) -> tuple[tuple[Groups, Callable[[CallerOnVolume], Any]], ...]:
        """Return what is counted by actor, each with what makes its key."""
        return (
            (self.volumes, itemgetter(0)),
            (self.users, itemgetter(1)),
            (self.programs, itemgetter(3)),
            (self.containers, itemgetter(4)),
            (self.processes, itemgetter(slice(None))),
        )
