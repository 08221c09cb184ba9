"""Node entries: every inode the kernel knows, 128 bytes each.

    word 0   node id; 0 where nothing is stored, EXTRA where the rest of a long name is
    word 1   st_ino, word 2 st_dev on the host
    word 3   node id of the directory through which it was last seen
    word 4   references of the kernel
    word 5   descriptor that pins it, plus one; 0 for none
    word 6   type, lengths of name and handle, marks
    word 7   the entry that holds the rest of name and handle; 0 for none
    then     name and handle, 64 bytes

Word 0 makes an entry valid. A change of name, parent or handle writes a new entry and then drops
the old one; after a crash between the two there are both, and either will do.
"""

import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Final

from fusevol.recovery.region import NODES, NODES_END, NODES_HIGH, WORD, Region

STRIDE: Final = 16
"""Words of an entry."""
EXTRA: Final = (1 << 64) - 1
"""No file system gives this inode number: it stands for "none" in the kernel."""
NOWHERE: Final = NODES_END
"""The place of what did not fit: written to, and never read."""

_LOOKUPS: Final = 4
_PIN: Final = 5
_SHAPE: Final = 6
_REST: Final = 7
_INLINE_BYTES: Final = 64
_EXTRA_BYTES: Final = 112
_REMOVED: Final = 1 << 60
_GONE: Final = 1 << 61
_ENTRY: Final = struct.Struct("7Q64s")
_PAGE: Final = 4096 // WORD
_TRIM_FROM: Final = 65536
"""Free entries from which it is looked whether memory can be given back."""


@dataclass(slots=True)
class Node:
    """What an entry says."""

    host_ino: int
    dev: int
    parent: int
    lookups: int
    fd: int
    kind: int
    name: bytes
    handle: bytes | None
    removed: bool
    gone: bool


class NodeEntries:
    """The node entries of a region. Places are word numbers."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._words = region.words
        self._map = region.map
        self._free: list[int] = []
        self._trim_at = _TRIM_FROM

    def add(self, ino: int, host_ino: int, dev: int, kind: int, parent: int, name: bytes) -> int:
        """Store a new inode without references or pin; return its place."""
        at = self._free.pop() if self._free else self._extend()
        size = len(name)
        if size <= _INLINE_BYTES:
            _ENTRY.pack_into(
                self._map, (at + 1) * WORD, host_ino, dev, parent, 0, 0, kind | size << 16, 0, name
            )
        else:
            self._write(at, Node(host_ino, dev, parent, 0, -1, kind, name, None, False, False))
        if at != NOWHERE:
            self._words[at] = ino
        return at

    def set_lookups(self, at: int, lookups: int) -> None:
        """Store how many references the kernel has."""
        self._words[at + _LOOKUPS] = lookups

    def set_pin(self, at: int, fd: int) -> None:
        """Store the descriptor that pins it; -1 for none, before it is closed."""
        self._words[at + _PIN] = fd + 1

    def set_removed(self, at: int) -> None:
        """Note that no name leads to it any more."""
        self._words[at + _SHAPE] |= _REMOVED

    def set_gone(self, at: int) -> None:
        """Note that the host object is no more."""
        self._words[at + _SHAPE] |= _GONE

    def replace(self, at: int, parent: int, name: bytes, handle: bytes | None) -> int:
        """Store another parent, name or handle; return the new place. It is not removed then."""
        if at == NOWHERE:
            return at
        ino = self._words[at]
        node = self.read(at)
        node.parent, node.name, node.handle, node.removed = parent, name, handle, False
        new = self._free.pop() if self._free else self._extend()
        self._write(new, node)
        if new != NOWHERE:
            self._words[new] = ino
        self.drop(at)
        return new

    def drop(self, at: int) -> None:
        """Remove an entry."""
        if at == NOWHERE:
            return
        words = self._words
        words[at] = 0
        rest = words[at + _REST]
        self._free.append(at)
        while rest:
            words[rest] = 0
            self._free.append(rest)
            rest = words[rest + 1]
        if len(self._free) > self._trim_at:
            self.trim()

    def read(self, at: int) -> Node:
        """Return what an entry says."""
        host_ino, dev, parent, lookups, pin, shape, rest, content = _ENTRY.unpack_from(
            self._map, (at + 1) * WORD
        )
        size, handle_size = shape >> 16 & 0xFFFF, shape >> 32 & 0xFFFF
        while rest:
            content += self._map[(rest + 2) * WORD : (rest + STRIDE) * WORD]
            rest = self._words[rest + 1]
        return Node(
            host_ino, dev, parent, lookups, pin - 1, shape & 0xFFFF, content[:size],
            content[size : size + handle_size] or None,
            bool(shape & _REMOVED), bool(shape & _GONE),
        )  # fmt: skip

    def load(self) -> list[int]:
        """Find out what is stored, after a change of the worker; return the places.

        Of two entries for one inode one is dropped, as are parts of entries that were never made
        valid.
        """
        words = self._words
        high = words[NODES_HIGH]
        inos = words[NODES:high:STRIDE].tolist()
        places = range(NODES, high, STRIDE)
        by_ino = {ino: at for ino, at in zip(inos, places, strict=True) if ino and ino != EXTRA}
        live = list(by_ino.values())
        used = set(live)
        for at in live if EXTRA in inos else ():
            rest = words[at + _REST]
            while rest:
                used.add(rest)
                rest = words[rest + 1]
        self._free = []
        if len(used) < len(inos):
            self._free = [at for at in reversed(places) if at not in used]
            for ino, at in zip(inos, places, strict=True):
                if ino and at not in used:
                    words[at] = 0
        return live

    def column(self, word: int) -> list[int]:
        """Return one word of every place, used or not."""
        return self._words[NODES + word : self._words[NODES_HIGH] : STRIDE].tolist()

    @staticmethod
    def number(at: int) -> int:
        """Return which element of a column belongs to a place."""
        return (at - NODES) // STRIDE

    def gone(self) -> set[int]:
        """Return the elements of a column whose host object is no more."""
        return {number for number, shape in enumerate(self.column(_SHAPE)) if shape & _GONE}

    def pins(self) -> list[int]:
        """Return the descriptors that pin inodes."""
        inos, pins = self.column(0), self.column(_PIN)
        return [
            pin - 1 for ino, pin in zip(inos, pins, strict=True) if pin and ino and ino != EXTRA
        ]

    def lose_pins(self) -> None:
        """Note that nothing is pinned any more, after all processes have died."""
        for at in range(NODES, self._words[NODES_HIGH], STRIDE):
            if self._words[at + _PIN]:
                self._words[at + _PIN] = 0

    def trim(self) -> None:
        """Give memory back whose entries are all free, and use the lowest places first."""
        self._free.sort(reverse=True)
        on_page = Counter(at // _PAGE for at in self._free)
        for page, count in on_page.items():
            if count * STRIDE == _PAGE:
                self._map.madvise(mmap.MADV_REMOVE, page * 4096, 4096)
        self._trim_at = max(_TRIM_FROM, 2 * len(self._free))

    def _extend(self) -> int:
        at = self._words[NODES_HIGH]
        if at >= NODES_END:
            return NOWHERE
        self._words[NODES_HIGH] = at + STRIDE
        return at

    def _write(self, at: int, node: Node) -> None:
        content = node.name + (node.handle or b"")
        rest = self._write_rest(content[_INLINE_BYTES:]) if len(content) > _INLINE_BYTES else 0
        shape = node.kind | len(node.name) << 16 | len(node.handle or b"") << 32
        shape |= (_REMOVED if node.removed else 0) | (_GONE if node.gone else 0)
        _ENTRY.pack_into(
            self._map, (at + 1) * WORD, node.host_ino, node.dev, node.parent, node.lookups,
            node.fd + 1, shape, rest, content[:_INLINE_BYTES],
        )  # fmt: skip

    def _write_rest(self, content: bytes) -> int:
        following = 0
        parts = [content[i : i + _EXTRA_BYTES] for i in range(0, len(content), _EXTRA_BYTES)]
        for part in reversed(parts):
            at = self._free.pop() if self._free else self._extend()
            if at == NOWHERE:
                return 0
            self._map[(at + 2) * WORD : (at + 2) * WORD + len(part)] = part
            self._words[at + 1] = following
            self._words[at] = EXTRA
            following = at
        return following
