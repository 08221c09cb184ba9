"""Numbers by key in bounded memory: those with the most are kept, however many keys there are."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Heaviest(Generic[Key, Value]):
    """Values by key. When there are too many keys, the lighter ones are given up.

    Attributes:
        values: key -> value.
        missed: what may be missing from the weight of any key, at most; 0 as long as no key had to
            be given up, and all is exact.
    """

    def __init__(self, most: int, weight: Callable[[Value], int]) -> None:
        """Keep the `most` heaviest at least, and never more than twice as many."""
        self.values: dict[Key, Value] = {}
        self.missed = 0
        self._most = most
        self._weight = weight

    def merge(self, other: "Heaviest[Key, Value]", both: Callable[[Value, Value], Value]) -> None:
        """Take over what `other` has; `both` makes one of two values of a key."""
        self.add(other.values.items(), both)
        self.missed += other.missed

    def add(
        self, items: Iterable[tuple[Key, Value]], both: Callable[[Value, Value], Value]
    ) -> None:
        """Add values of keys; `both` makes one of two values of a key."""
        values = self.values
        for key, value in items:
            old = values.get(key)
            values[key] = value if old is None else both(old, value)
        self._trim()

    def _trim(self) -> None:
        if len(self.values) <= 2 * self._most:
            return
        items = self.first(len(self.values), self._weight)
        self.missed += self._weight(items[self._most][1])
        self.values = dict(items[: self._most])

    def first(self, count: int, order: Callable[[Value], int]) -> list[tuple[Key, Value]]:
        """Return the first `count` keys and values, those with the most of `order` first."""
        items = sorted(self.values.items(), key=lambda item: order(item[1]), reverse=True)
        return items[:count]
