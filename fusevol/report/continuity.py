"""Whether the numbers of a log's records go on without a hole.

A number that is missing is a record that was removed, or that cannot be read. A number that is
lower than the one before begins a new log.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from fusevol.accesslog.filter import Filter
from fusevol.accesslog.record import AccessRecord

_HOLES: Final = 100


class Hole(NamedTuple):
    """Numbers that are missing, `first` to `last`; the record behind them is of `time`."""

    volume: str
    first: int
    last: int
    time: str


@dataclass(slots=True)
class Continuity:
    """The numbers of records that follow each other.

    Attributes:
        wanted: tells of which volumes and which time holes count.
        start: the first record; None if there is none.
        volume, seq: of the last record.
        holes: the first holes of them.
        missing: how many numbers are missing.
    """

    wanted: Filter
    start: Hole | None = None
    volume: str = ""
    seq: int = -1
    holes: list[Hole] = field(default_factory=list)
    missing: int = 0

    def add(self, records: Sequence[AccessRecord]) -> None:
        """Add records in the order of the log."""
        first, last = records[0], records[-1]
        whole = last.seq - first.seq + 1 == len(records) and first.volume == last.volume
        for record in (first,) if whole else records:
            self._go_on(Hole(record.volume, record.seq, record.seq, record.time))
        self.volume, self.seq = last.volume, last.seq

    def _go_on(self, record: Hole) -> None:
        if self.start is None:
            self.start = record
        elif self.volume == record.volume and record.first > self.seq + 1:
            self._miss(record._replace(first=self.seq + 1, last=record.first - 1))
        self.volume, self.seq = record.volume, record.last

    def _miss(self, hole: Hole) -> None:
        wanted = self.wanted
        if wanted.volumes and hole.volume not in wanted.volumes:
            return
        if not (wanted.since or "") <= hole.time < (wanted.until or "~"):
            return
        self.missing += hole.last - hole.first + 1
        if len(self.holes) < _HOLES:
            self.holes.append(hole)

    def append(self, other: "Continuity") -> None:
        """Add the records of `other`, which come next."""
        if other.start is None:
            return
        self._go_on(other.start)
        self.holes = [*self.holes, *other.holes][:_HOLES]
        self.missing += other.missing
        self.volume, self.seq = other.volume, other.seq


def joined(parts: Iterable[Continuity], wanted: Filter) -> Continuity:
    """Return what parts of a log, in their order, are together."""
    whole = Continuity(wanted)
    for part in parts:
        whole.append(part)
    return whole
