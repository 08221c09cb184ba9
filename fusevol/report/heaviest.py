"""Numbers by key in bounded memory: those with the most are kept, however many keys there are."""

from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

_CHARACTERS: Final = 16 * 1024 * 1024
"""How long all keys may be together: paths can have thousands of characters each."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class Heaviest(Generic[Key, Value]):
    """Values by key. When there are too many keys, the lighter ones are given up.

    Attributes:
        values: key -> value.
        missed: what may be missing from the weight of any key, at most; 0 as long as no key had to
            be given up, and all is exact.
    """

    def __init__(
        self, most: int, weight: Callable[[Value], int], characters: int = _CHARACTERS
    ) -> None:
        """Keep the `most` heaviest, or fewer if all keys together have more than `characters`.

        Up to twice as many are there at times.
        """
        self.values: dict[Key, Value] = {}
        self.missed = 0
        self._characters = 0
        self._most = most
        self._room = characters
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
            if old is None:
                values[key] = value
                self._characters += _length(key)
            else:
                values[key] = both(old, value)
        self._trim()

    def _trim(self) -> None:
        if len(self.values) <= 2 * self._most and self._characters <= self._room:
            return
        items = self.first(len(self.values), self._weight)
        self.values = {}
        self._characters = 0
        for key, value in items[: self._most]:
            if self.values and self._characters + _length(key) > self._room // 2:
                break
            self.values[key] = value
            self._characters += _length(key)
        for _key, value in items[len(self.values) : len(self.values) + 1]:
            self.missed += self._weight(value)

    def first(self, count: int, order: Callable[[Value], int]) -> list[tuple[Key, Value]]:
        """Return the first `count` keys and values, those with the most of `order` first."""
        items = sorted(self.values.items(), key=lambda item: order(item[1]), reverse=True)
        return items[:count]


def _length(key: object) -> int:
    if isinstance(key, tuple):
        return sum(len(part) for part in key if isinstance(part, str))
    return len(key) if isinstance(key, str) else 0
