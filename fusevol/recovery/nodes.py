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

Memory is taken and given back by pages of 32 entries. What was given back is a hole in the memfd,
and is not read: reading a hole by way of a mapping fills it.
"""

import errno
import mmap
import os
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fusevol.recovery.counters import KNOWN_INODES
from fusevol.recovery.region import NODES, NODES_END, NODES_HIGH, WORD, Region

STRIDE: Final = 16
"""Words of an entry."""
EXTRA: Final = (1 << 64) - 1
"""No file system gives this inode number: it stands for "none" in the kernel."""
NOWHERE: Final = NODES_END
"""The place of what did not fit: written to, and never read."""

_HOST_INO: Final = 1
_DEV: Final = 2
_PARENT: Final = 3
_LOOKUPS: Final = 4
_PIN: Final = 5
_SHAPE: Final = 6
_REST: Final = 7
_NEXT: Final = 1
"""Where a part of a long name says which part comes next."""
_INLINE_BYTES: Final = 64
_EXTRA_BYTES: Final = 112
_REMOVED: Final = 1 << 60
_GONE: Final = 1 << 61
_ENTRY: Final = struct.Struct("7Q64s")
_PAGE: Final = 4096 // WORD
_ON_PAGE: Final = _PAGE // STRIDE
_IDLE_PAGES: Final = 1024
"""How many pages without an entry are kept for the next ones."""


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
        self._holes: list[int] = []
        """Pages that were given back, the lowest last."""
        self._free_on = bytearray(NODES_END // _PAGE)
        """How many places of a page are in `_free`."""
        self._idle_pages = 0
        self._known = 0

    def add(self, ino: int, host_ino: int, dev: int, kind: int, parent: int, name: bytes) -> int:
        """Store a new inode without references or pin; return its place."""
        at = self._take()
        size = len(name)
        if size <= _INLINE_BYTES:
            _ENTRY.pack_into(
                self._map, (at + 1) * WORD, host_ino, dev, parent, 0, 0, kind | size << 16, 0, name
            )
        else:
            self._write(at, Node(host_ino, dev, parent, 0, -1, kind, name, None, False, False))
        if at != NOWHERE:
            self._words[at] = ino
            self._count(1)
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
        """Note that the host object no longer exists."""
        self._words[at + _SHAPE] |= _GONE

    def replace(self, at: int, parent: int, name: bytes, handle: bytes | None) -> int:
        """Store another parent, name or handle; return the new place. It is not removed then."""
        if at == NOWHERE:
            return at
        ino = self._words[at]
        node = self.read(at)
        node.parent, node.name, node.handle, node.removed = parent, name, handle, False
        new = self._take()
        self._write(new, node)
        if new != NOWHERE:
            self._words[new] = ino
            self._count(1)
        self.drop(at)
        return new

    def drop(self, at: int) -> None:
        """Remove an entry."""
        if at == NOWHERE:
            return
        words = self._words
        words[at] = 0
        self._count(-1)
        rest = words[at + _REST]
        self._put_back(at)
        while rest:
            words[rest] = 0
            at, rest = rest, words[rest + _NEXT]
            self._put_back(at)
        if self._idle_pages > _IDLE_PAGES:
            self.trim()

    def read(self, at: int) -> Node:
        """Return what an entry says."""
        host_ino, dev, parent, lookups, pin, shape, rest, content = _ENTRY.unpack_from(
            self._map, (at + 1) * WORD
        )
        size, handle_size = shape >> 16 & 0xFFFF, shape >> 32 & 0xFFFF
        while rest:
            content += self._map[(rest + 2) * WORD : (rest + STRIDE) * WORD]
            rest = self._words[rest + _NEXT]
        return Node(
            host_ino, dev, parent, lookups, pin - 1, shape & 0xFFFF, content[:size],
            content[size : size + handle_size] or None,
            bool(shape & _REMOVED), bool(shape & _GONE),
        )  # fmt: skip

    def load(self) -> dict[int, int]:
        """Find out what is stored, after a change of the worker; return node ids and places.

        Of two entries for one inode one is dropped, as are parts of entries that were never made
        valid.
        """
        words = self._words
        # An earlier version of this code may have ended within a page.
        words[NODES_HIGH] = -(-words[NODES_HIGH] // _PAGE) * _PAGE
        inos = self.column(0)
        places = range(NODES, words[NODES_HIGH], STRIDE)
        by_ino = dict(zip(inos, places, strict=True))
        by_ino.pop(0, None)
        by_ino.pop(EXTRA, None)
        if len(by_ino) < len(inos) - inos.count(0):
            used = self._used(list(by_ino.values()))
            for number, at in enumerate(places):
                if inos[number] and at not in used:
                    words[at] = inos[number] = 0
        self._find_free(inos)
        self._known = 0
        self._count(len(by_ino))
        return by_ino

    def _count(self, change: int) -> None:
        self._known += change
        self._words[KNOWN_INODES] = self._known

    def _used(self, live: list[int]) -> set[int]:
        """Return the places of entries and of the rest of their names."""
        words = self._words
        used = set(live)
        for at in live:
            rest = words[at + _REST]
            while rest:
                used.add(rest)
                rest = words[rest + _NEXT]
        return used

    def _find_free(self, inos: list[int]) -> None:
        """Take stock of free places, `inos` being the first words of all."""
        stretches = list(self._stretches())
        self._free = []
        for start, end in stretches:
            stored = inos[self.number(start) : self.number(end)]
            if 0 in stored:
                places = zip(range(start, end, STRIDE), stored, strict=True)
                self._free += [at for at, ino in places if not ino]
        self._free.reverse()
        self._free_on = bytearray(NODES_END // _PAGE)
        for at in self._free:
            self._free_on[at // _PAGE] += 1
        self._idle_pages = self._free_on.count(_ON_PAGE)
        filled = {page for start, end in stretches for page in range(start // _PAGE, end // _PAGE)}
        pages = range(self._words[NODES_HIGH] // _PAGE - 1, NODES // _PAGE - 1, -1)
        self._holes = [page for page in pages if page not in filled]
        if self._idle_pages > _IDLE_PAGES:
            self.trim()

    def column(self, word: int) -> list[int]:
        """Return one word of every place, used or not."""
        column: list[int] = []
        for start, end in self._stretches():
            column += [0] * (self.number(start) - len(column))
            column += self._words[start + word : end : STRIDE].tolist()
        column += [0] * (self.number(self._words[NODES_HIGH]) - len(column))
        return column

    def _stretches(self) -> Iterator[tuple[int, int]]:
        """Yield first place and end of each stretch that is in memory."""
        at, end = NODES * WORD, self._words[NODES_HIGH] * WORD
        while at < end:
            try:
                start = os.lseek(self._region.fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return
            at = min(end, os.lseek(self._region.fd, start, os.SEEK_HOLE))
            if start < at:
                yield start // WORD, at // WORD

    @staticmethod
    def number(at: int) -> int:
        """Return which element of a column belongs to a place."""
        return (at - NODES) // STRIDE

    def identity(self, at: int) -> tuple[int, int] | None:
        """Return st_dev and st_ino of an entry; None if the host object no longer exists."""
        words = self._words
        return None if words[at + _SHAPE] & _GONE else (words[at + _DEV], words[at + _HOST_INO])

    def kind(self, at: int) -> int:
        """Return the type of an entry, as in st_mode."""
        return self._words[at + _SHAPE] & 0xFFFF

    def children(self) -> Counter[int]:
        """Return for each node id how many inodes were last seen in that directory."""
        inos, parents = self.column(0), self.column(_PARENT)
        return Counter(
            [parent for ino, parent in zip(inos, parents, strict=True) if ino and ino != EXTRA]
        )

    def pins(self) -> list[int]:
        """Return the descriptors that pin inodes."""
        words = self._words
        places = [NODES + n * STRIDE for n, pin in enumerate(self.column(_PIN)) if pin]
        return [words[at + _PIN] - 1 for at in places if words[at] and words[at] != EXTRA]

    def lose_pins(self) -> None:
        """Note that nothing is pinned any more, after all processes have died."""
        words = self._words
        for start, end in self._stretches():
            for at in range(start, end, STRIDE):
                if words[at] and words[at] != EXTRA:
                    words[at + _PIN] = 0

    def trim(self) -> None:
        """Give memory back whose entries are all free."""
        free_on = self._free_on
        self._free = [at for at in self._free if free_on[at // _PAGE] < _ON_PAGE]
        page = free_on.find(_ON_PAGE)
        while page >= 0:
            self._map.madvise(mmap.MADV_REMOVE, page * _PAGE * WORD, _PAGE * WORD)
            free_on[page] = 0
            self._holes.append(page)
            page = free_on.find(_ON_PAGE, page)
        self._idle_pages = 0
        self._holes.sort(reverse=True)
        self._lower()

    def _lower(self) -> None:
        """Let the used part end where the last page in memory does."""
        last = self._words[NODES_HIGH] // _PAGE - 1
        count = 0
        while count < len(self._holes) and self._holes[count] == last - count:
            count += 1
        del self._holes[:count]
        self._words[NODES_HIGH] = (last + 1 - count) * _PAGE

    def _put_back(self, at: int) -> None:
        self._free.append(at)
        page = at // _PAGE
        self._free_on[page] += 1
        if self._free_on[page] == _ON_PAGE:
            self._idle_pages += 1

    def _take(self) -> int:
        if not self._free and not self._add_page():
            return NOWHERE
        at = self._free.pop()
        page = at // _PAGE
        if self._free_on[page] == _ON_PAGE:
            self._idle_pages -= 1
        self._free_on[page] -= 1
        return at

    def _add_page(self) -> bool:
        """Make the places of another page free; return whether there is one."""
        if self._holes:
            page = self._holes.pop()
        else:
            high = self._words[NODES_HIGH]
            if high >= NODES_END:
                return False
            self._words[NODES_HIGH] = high + _PAGE
            page = high // _PAGE
        first = page * _PAGE
        self._free.extend(range(first + _PAGE - STRIDE, first - STRIDE, -STRIDE))
        self._free_on[page] = _ON_PAGE
        self._idle_pages += 1
        return True

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
            at = self._take()
            if at == NOWHERE:
                return 0
            self._map[(at + 2) * WORD : (at + 2) * WORD + len(part)] = part
            self._words[at + _NEXT] = following
            self._words[at] = EXTRA
            following = at
        return following
