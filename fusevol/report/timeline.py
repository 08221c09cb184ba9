"""What happened when: numbers for spans of time, as many as a chart can show.

How long a log is shows only at its end. So spans are short at first, and become longer when there
are too many of them; each longer span holds whole shorter ones.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import groupby
from typing import Final

from fusevol.record.record import AccessRecord

WIDTHS_S: Final = (1, 5, 15, 60, 300, 900, 3600, 10_800, 21_600, 43_200, 86_400, 604_800, 2_419_200)
"""How long spans may be, in seconds; each is a multiple of the one before."""

_SPANS: Final = 400


@dataclass(slots=True)
class Span:
    """What happened in one span of time.

    Attributes:
        counts: class of operations -> how many.
        errors: operations that failed, without look-ups of what does not exist.
        lost: operations that could not be recorded.
        bytes_read, bytes_written: what reads and writes moved.
        count_by_us: duration -> how many took so long, as `durations.coarse` has it.
    """

    counts: Counter[str] = field(default_factory=Counter)
    errors: int = 0
    lost: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    count_by_us: Counter[int] = field(default_factory=Counter)

    def merge(self, other: "Span") -> None:
        """Add what happened in `other`."""
        self.counts.update(other.counts)
        self.errors += other.errors
        self.lost += other.lost
        self.bytes_read += other.bytes_read
        self.bytes_written += other.bytes_written
        self.count_by_us.update(other.count_by_us)


class Timeline:
    """Spans of time by their first second, counted from the epoch.

    Attributes:
        width_s: how long each is, in seconds; one of WIDTHS_S.
        spans: first second -> what happened from then on.
    """

    def __init__(self, width_s: int = WIDTHS_S[0], spans: dict[int, Span] | None = None) -> None:
        self.width_s = width_s
        self.spans = {} if spans is None else spans

    def runs(self, records: Sequence[AccessRecord]) -> Iterator[tuple[int, Sequence[AccessRecord]]]:
        """Yield records that follow each other in one span, with a second that lies in it."""

        def start(record: AccessRecord) -> int:
            return second_of(record.time) // width_s * width_s

        if not records:
            return
        width_s = self.width_s
        first = start(records[0])
        # Clocks do not go there and back within a few hundred records.
        if first == start(records[-1]):
            yield first, records
            return
        for second, run in groupby(records, start):
            yield second, list(run)

    def span(self, second: int) -> Span:
        """Return the span that `second` lies in. Good until the next call."""
        start = second // self.width_s * self.width_s
        if (found := self.spans.get(start)) is not None:
            return found
        self.spans[start] = Span()
        while len(self.spans) > _SPANS and self.width_s != WIDTHS_S[-1]:
            self.widen(WIDTHS_S[WIDTHS_S.index(self.width_s) + 1])
        return self.spans[second // self.width_s * self.width_s]

    def widen(self, width_s: int) -> None:
        """Make each span so long, if it is shorter."""
        if width_s <= self.width_s:
            return
        self.width_s = width_s
        old, self.spans = self.spans, {}
        for start, span in old.items():
            self.spans.setdefault(start // width_s * width_s, Span()).merge(span)

    def fit(self, columns: int) -> None:
        """Make spans so long that no more than `columns` lie side by side, if that is possible."""
        for width_s in WIDTHS_S:
            if not self.spans or (max(self.spans) - min(self.spans)) // self.width_s < columns:
                return
            self.widen(width_s)

    def merge(self, other: "Timeline") -> None:
        """Add what happened in `other`, which is changed by that."""
        width_s = max(self.width_s, other.width_s)
        self.widen(width_s)
        other.widen(width_s)
        for start, span in other.spans.items():
            self.span(start).merge(span)


def second_of(time: str) -> int:
    """Return the whole seconds from the epoch to `time`; 0 for what is not a time."""
    try:
        return _minute(time[:16]) + int(time[17:19])
    except ValueError:
        return 0


@lru_cache
def _minute(text: str) -> int:
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M").replace(tzinfo=UTC).timestamp())
