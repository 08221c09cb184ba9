"""The records that a report shows one by one: the newest, the slowest, in bounded memory."""

from collections.abc import Callable, Sequence
from typing import Any

from fusevol.record.record import AccessRecord


class Kept:
    """The records that are first in some order, out of any number.

    Attributes:
        count: how many there were.
    """

    def __init__(self, most: int, order: Callable[[AccessRecord], Any]) -> None:
        """Keep the `most` records with the most of `order`."""
        self.count = 0
        self._most = most
        self._order = order
        self._records: list[AccessRecord] = []
        self._least: Any = None

    def add(self, records: Sequence[AccessRecord], *, sorted_: bool = False) -> None:
        """Add records; that they are sorted already, one way or the other, saves time."""
        if not records:
            return
        self.count += len(records)
        order, least = self._order, self._least
        ends = (records[0], records[-1]) if sorted_ else records
        if least is not None and max(map(order, ends)) <= least:
            return
        self._records.extend(
            records if least is None else (one for one in records if order(one) > least)
        )
        if len(self._records) > 2 * self._most:
            self._records = self.first()
            self._least = order(self._records[-1])

    def merge(self, other: "Kept") -> None:
        """Add what `other` has."""
        count = self.count + other.count
        self.add(other.first())
        self.count = count

    def first(self) -> list[AccessRecord]:
        """Return what is kept, in its order."""
        return sorted(self._records, key=self._order, reverse=True)[: self._most]
