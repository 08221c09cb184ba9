"""Whether the numbers of a log's records go on without a hole.

A number that is missing is a record that was removed, or that cannot be read; one of which a `gap`
tells is not missed. A number that is lower than the one before begins a new log.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from fusevol.logs.filter import Filter
from fusevol.record.record import AccessRecord

if TYPE_CHECKING:
    from fusevol.logs.sections import Batch

KEYS: Final = ("volume", "lost")
"""What is looked at besides keys that every record has."""
_HOLES: Final = 100


class Hole(NamedTuple):
    """Numbers that are missing.

    Attributes:
        volume: whose log it is.
        first, last: the numbers.
        time: of the record behind them.
        before, after: the files of the records before and behind them.
    """

    volume: str
    first: int
    last: int
    time: str
    before: str = ""
    after: str = ""


class _Spot(NamedTuple):
    """A record, and how many missing ones before it that it reports."""

    volume: str
    seq: int
    time: str
    told: int

    @classmethod
    def of(cls, record: AccessRecord) -> "_Spot":
        told = record.lost or 0 if record.op == "gap" else 0
        return cls(record.volume, record.seq, record.time, told)


@dataclass(slots=True)
class Continuity:
    """The numbers of records that follow each other.

    Attributes:
        wanted: the volumes and times whose holes count.
        path: the file of the records that are added.
        holes: the first holes of them.
        missing: how many numbers are missing.
        places: how many holes there are.
    """

    wanted: Filter
    path: str = ""
    holes: list[Hole] = field(default_factory=list)
    missing: int = 0
    places: int = 0
    _start: _Spot | None = None
    _volume: str = ""
    _seq: int = -1

    def add(self, records: Sequence[AccessRecord]) -> None:
        """Add records in the order of the log, one at least."""
        first, last = records[0], records[-1]
        whole = last.seq - first.seq + 1 == len(records) and first.volume == last.volume
        for record in (first,) if whole else records:
            self._go_on(_Spot.of(record), self.path, self.path)
        self._volume, self._seq = last.volume, last.seq

    def add_batch(self, batch: "Batch") -> None:
        """Add the records of a batch, in which there may be lines that are none."""
        records = batch.records
        if not batch.is_json:
            records = [record for record in records if record is not None]
        if records:
            self.add(cast("Sequence[AccessRecord]", records))

    def _go_on(self, spot: _Spot, before: str, after: str) -> None:
        if self._start is None:
            self._start = spot
        elif self._volume == spot.volume and spot.seq > self._seq + 1 + spot.told:
            hole = Hole(spot.volume, self._seq + 1, spot.seq - 1, spot.time, before, after)
            self._miss(hole)
        self._volume, self._seq = spot.volume, spot.seq

    def _miss(self, hole: Hole) -> None:
        wanted = self.wanted
        if wanted.volumes and hole.volume not in wanted.volumes:
            return
        if not (wanted.since or "") <= hole.time < (wanted.until or "~"):
            return
        self.missing += hole.last - hole.first + 1
        self.places += 1
        if len(self.holes) < _HOLES:
            self.holes.append(hole)

    def append(self, other: "Continuity") -> None:
        """Add the records of `other`, which come next."""
        if other._start is None:
            return
        self._go_on(other._start, self.path, other.path)
        self.holes = [*self.holes, *other.holes][:_HOLES]
        self.missing += other.missing
        self.places += other.places
        self._volume, self._seq, self.path = other._volume, other._seq, other.path


def joined(parts: Iterable[Continuity], wanted: Filter) -> Continuity:
    """Return what parts of a log, in their order, are together."""
    whole = Continuity(wanted)
    for part in parts:
        whole.append(part)
    return whole
