"""Open entries: what clients hold open, and what else has to stay open, 256 bytes each.

Of an entry,

    word 0   kind; 0 where nothing is stored
    word 1   handle number; for DEVICE the device and for PLACE the number
    word 2   node id
    word 3   descriptor on the host
    word 4   open(2) flags of the client, 5 uid, 6 gid, 7 pid of the opener, 8 marks
    word 9   bytes read, 10 bytes written
    word 11  length of the file that the kernel last got
    word 12  lengths of name and container of the opener, errno of its look-up, and from bit 32 on
             the number of the entry that holds the container's name if it has no room here; or 0
    then     name of the opener 64 bytes, container 88 bytes

An entry of the kind TEXT holds a part of a long name: in word 1 the number of the entry with the
next part or 0, in word 2 the bytes in this one, in word 3 that it has no descriptor, then the
bytes. Numbers begin with 1. Parts are stored before what refers to them, and dropped after it;
those that nothing refers to are left by a process that died in between.
"""

import errno
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fusevol.model import INVISIBLE, UNKNOWN
from fusevol.recovery.region import OPENS, OPENS_END, OPENS_HIGH, WORD, Region

FILE: Final = 1
DIRECTORY: Final = 2
DEVICE: Final = 3
"""A descriptor by which file handles of a device are opened."""
PLACE: Final = 4
"""The root of a mount in the source that has a number."""
TEXT: Final = 5
"""A part of a name."""

SET_ID: Final = 1
"""Mark: the file may have set-ID bits."""
BY_RING: Final = 2
"""Mark: a thread of io_uring has opened it."""

READ: Final = 9
WRITTEN: Final = 10
SIZE: Final = 11

LOST: Final = (1 << 32) - 1
"""Stands for a descriptor that died with all processes."""

_STRIDE: Final = 32
_FD: Final = 3
_MARKS: Final = 8
_ENTRY: Final = struct.Struct("12Q64s88s")
_COMM_BYTES: Final = 64
_CONTAINER_BYTES: Final = 88
_NONE: Final = 0xFF
_INVISIBLE: Final = 0xFFFF
_TEXT_AT: Final = 32
"""Bit of word 12."""
_PART: Final = 4
"""Word in which the bytes of a TEXT begin."""
_PART_BYTES: Final = (_STRIDE - _PART) * WORD
_NOWHERE: Final = OPENS_END - _STRIDE
"""The last place: for what does not fit, and never read."""
_NO_ROOM: Final = "ENOSPC"
"""Why a container is not known of which there is no room for the name."""


@dataclass(slots=True)
class OpenEntry:
    """What an entry says; `at` is its place."""

    at: int
    kind: int
    fh: int
    ino: int
    fd: int
    flags: int
    uid: int
    gid: int
    pid: int
    marks: int
    bytes_read: int
    bytes_written: int
    size: int
    comm: str | None
    container: str | None
    error: str | None


class OpenEntries:
    """The open entries of a region. Places are word numbers."""

    def __init__(self, region: Region) -> None:
        self.words = region.words
        self._map = region.map
        self._free: list[int] = []
        self._texts: dict[int, list[int]] = {}
        """Entry -> those that hold its container's name."""

    def add(
        self,
        kind: int,
        fh: int,
        ino: int,
        fd: int,
        flags: int = 0,
        uid: int = 0,
        gid: int = 0,
        pid: int = 0,
        size: int = 0,
        comm: str | None = None,
        container: str | None = None,
        error: str | None = None,
    ) -> int:
        """Store something open; return its place."""
        at = self._place()
        name = b"" if comm is None else comm.encode()[:_COMM_BYTES]
        inside = b"" if container is None else container.encode()
        text = 0
        if len(inside) > _CONTAINER_BYTES and at != _NOWHERE:
            text = self._add_text(at, inside)
            # Half a name would be another container's.
            inside, error = (b"", error) if text else (UNKNOWN.encode(), error or _NO_ROOM)
        lengths = (_NONE if comm is None else len(name)) | (
            _NONE if container is None else len(inside)
        ) << 8
        if error is not None:
            lengths |= _number_of(error) << 16
        if text:
            lengths |= text << _TEXT_AT
        _ENTRY.pack_into(
            self._map, (at + 1) * WORD, fh, ino, fd, flags, uid, gid, pid, 0, 0, 0, size,
            lengths, name, inside,
        )  # fmt: skip
        if at != _NOWHERE:
            self.words[at] = kind
        return at

    def set_descriptor(self, at: int, fd: int) -> None:
        """Store under which descriptor it is open now."""
        self.words[at + _FD] = fd

    def set_marks(self, at: int, marks: int) -> None:
        """Store SET_ID, BY_RING, both or 0."""
        self.words[at + _MARKS] = marks

    def drop(self, at: int) -> None:
        """Remove an entry, before its descriptor is closed."""
        if at != _NOWHERE:
            self.words[at] = 0
            self._free.append(at)
            if at in self._texts:
                self._drop_texts(self._texts.pop(at))

    def load(self) -> list[OpenEntry]:
        """Return all entries, after a change of the worker."""
        found = []
        self._free = []
        self._texts = {}
        parts: set[int] = set()
        for at in range(OPENS, self.words[OPENS_HIGH], _STRIDE):
            kind = self.words[at]
            if not kind:
                self._free.append(at)
                continue
            if kind == TEXT:
                parts.add(at)
                continue
            fields = list(_ENTRY.unpack_from(self._map, (at + 1) * WORD))
            lengths, comm, container = fields[-3:]
            inside = _text(container, lengths >> 8 & 0xFF)
            if number := lengths >> _TEXT_AT:
                inside = self._load_text(at, number)
            fields[-3:] = (
                _text(comm, lengths & 0xFF), inside, _error_of(lengths >> 16 & 0xFFFF)
            )  # fmt: skip
            found.append(OpenEntry(at, kind, *fields))
        self._drop_texts(parts.difference(*self._texts.values()))
        return found

    def lose_descriptors(self) -> None:
        """Note that what was open is not any more, after all processes have died."""
        for at in range(OPENS, self.words[OPENS_HIGH], _STRIDE):
            if self.words[at] in (DEVICE, PLACE):
                self.words[at] = 0
            self.words[at + _FD] = LOST

    def descriptors(self) -> list[int]:
        """Return all descriptors that are stored and not lost."""
        high = self.words[OPENS_HIGH]
        kinds = self.words[OPENS:high:_STRIDE].tolist()
        fds = self.words[OPENS + _FD : high : _STRIDE].tolist()
        return [fd for kind, fd in zip(kinds, fds, strict=True) if kind and fd != LOST]

    def _add_text(self, at: int, content: bytes) -> int:
        """Store the name of the container of the entry at `at` elsewhere.

        Returns:
            The number of its first part; 0 if there is no room.
        """
        places: list[int] = []
        following = 0
        for start in reversed(range(0, len(content), _PART_BYTES)):
            place = self._place()
            if place == _NOWHERE:
                self._drop_texts(places)
                return 0
            places.append(place)
            part = content[start : start + _PART_BYTES]
            first_byte = (place + _PART) * WORD
            self._map[first_byte : first_byte + len(part)] = part
            self.words[place + 1] = following
            self.words[place + 2] = len(part)
            self.words[place + _FD] = LOST
            self.words[place] = TEXT
            following = _number_at(place)
        self._texts[at] = places
        return following

    def _load_text(self, at: int, number: int) -> str:
        content = b""
        places = self._texts[at] = []
        while number:
            place = OPENS + (number - 1) * _STRIDE
            places.append(place)
            first_byte = (place + _PART) * WORD
            content += self._map[first_byte : first_byte + self.words[place + 2]]
            number = self.words[place + 1]
        return content.decode(errors="replace")

    def _drop_texts(self, places: Iterable[int]) -> None:
        for place in places:
            self.words[place] = 0
            self._free.append(place)

    def _place(self) -> int:
        return self._free.pop() if self._free else self._extend()

    def _extend(self) -> int:
        at = self.words[OPENS_HIGH]
        if at >= _NOWHERE:
            return _NOWHERE
        self.words[OPENS_HIGH] = at + _STRIDE
        return at


def _number_at(place: int) -> int:
    return (place - OPENS) // _STRIDE + 1


def _number_of(error: str) -> int:
    return _INVISIBLE if error == INVISIBLE else getattr(errno, error, errno.EIO)


def _error_of(number: int) -> str | None:
    return INVISIBLE if number == _INVISIBLE else errno.errorcode.get(number)


def _text(content: bytes, length: int) -> str | None:
    return None if length == _NONE else content[:length].decode(errors="replace")
