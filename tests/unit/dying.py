"""A writer of the recovery state that dies after so many stores.

A store is a word, as the processor does it; what is larger is torn between any two of its words.
"""

import struct
from functools import partial
from typing import Any, cast

import pytest

from fusevol.recovery import nodes, open_handles
from fusevol.recovery.region import WORD, Region


class Died(BaseException):
    """The writer is dead; nobody catches it on the way."""


class _Clock:
    def __init__(self, stores: int) -> None:
        self.left = stores
        self.done = 0

    def tick(self) -> None:
        if self.done == self.left:
            raise Died
        self.done += 1


class _Words:
    def __init__(self, region: Region, clock: _Clock) -> None:
        self._words = region.words
        self._clock = clock

    def __getitem__(self, place: Any) -> Any:
        return self._words[place]

    def __setitem__(self, place: int, value: int) -> None:
        self._clock.tick()
        self._words[place] = value


class _Map:
    def __init__(self, region: Region, clock: _Clock) -> None:
        self.bytes = region.map
        self._clock = clock

    def __getitem__(self, place: slice) -> bytes:
        return self.bytes[place]

    def __setitem__(self, place: slice, content: bytes) -> None:
        assert place.stop - place.start == len(content)
        for at in range(0, len(content), WORD):
            part = content[at : at + WORD]
            self._clock.tick()
            self.bytes[place.start + at : place.start + at + len(part)] = part

    def madvise(self, advice: int, start: int, length: int) -> None:
        self._clock.tick()
        self.bytes.madvise(advice, start, length)


class _Entry:
    """A struct that packs into such a map, too."""

    def __init__(self, layout: struct.Struct) -> None:
        self._layout = layout

    def pack_into(self, target: Any, offset: int, *values: object) -> None:
        if isinstance(target, _Map):
            target[offset : offset + self._layout.size] = self._layout.pack(*values)
        else:
            self._layout.pack_into(target, offset, *values)

    def unpack_from(self, source: Any, offset: int) -> tuple[Any, ...]:
        return self._layout.unpack_from(getattr(source, "bytes", source), offset)


class DyingWriter:
    """Stands for a region whose writer dies after `stores` stores."""

    def __init__(self, region: Region, stores: int) -> None:
        self._clock = _Clock(stores)
        self.fd = region.fd
        self.words = _Words(region, self._clock)
        self.map = _Map(region, self._clock)

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(Region, name), self)

    def instant(self) -> None:
        """Die here, if it is time: an instant before something else than a store."""
        self._clock.tick()

    def region(self) -> Region:
        """Itself, for what wants a region."""
        return cast("Region", self)


def tear_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have entries be written word by word wherever a writer may die."""
    for module in (nodes, open_handles):
        monkeypatch.setattr(module, "_ENTRY", _Entry(getattr(module, "_ENTRY")))  # noqa: B009
