"""Open entries: what clients hold open, and what else has to stay open, 256 bytes each.

Of an entry,

    word 0   kind; 0 where nothing is stored
    word 1   handle number; for DEVICE the device and for PLACE the number
    word 2   node id
    word 3   descriptor on the host
    word 4   open(2) flags of the client, 5 uid, 6 gid, 7 pid of the opener, 8 marks
    word 9   bytes read, 10 bytes written
    word 11  length of the file as the kernel was last told
    word 12  lengths of name and container of the opener, errno of its look-up
    then     name of the opener 64 bytes, container 88 bytes
"""

import errno
import struct
from dataclasses import dataclass
from typing import Final

from fusevol.model import INVISIBLE
from fusevol.recovery.region import OPENS, OPENS_END, OPENS_HIGH, WORD, Region

FILE: Final = 1
DIRECTORY: Final = 2
DEVICE: Final = 3
"""A descriptor by which file handles of a device are opened."""
PLACE: Final = 4
"""The root of a mount in the source that has a number."""

KEEPS_SET_ID: Final = 1
"""Mark: the opener may write without clearing set-ID bits."""
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
_NOWHERE: Final = OPENS_END


@dataclass(slots=True)
class Open:
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
        at = self._free.pop() if self._free else self._extend()
        name = b"" if comm is None else comm.encode()[:_COMM_BYTES]
        inside = b"" if container is None else container.encode()[:_CONTAINER_BYTES]
        lengths = (_NONE if comm is None else len(name)) | (
            _NONE if container is None else len(inside)
        ) << 8
        if error is not None:
            lengths |= _number_of(error) << 16
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
        """Store KEEPS_SET_ID, BY_RING, both or 0."""
        self.words[at + _MARKS] = marks

    def drop(self, at: int) -> None:
        """Remove an entry, before its descriptor is closed."""
        if at != _NOWHERE:
            self.words[at] = 0
            self._free.append(at)

    def load(self) -> list[Open]:
        """Return all entries, after a change of the worker."""
        found = []
        self._free = []
        for at in range(OPENS, self.words[OPENS_HIGH], _STRIDE):
            kind = self.words[at]
            if not kind:
                self._free.append(at)
                continue
            fields = list(_ENTRY.unpack_from(self._map, (at + 1) * WORD))
            lengths, comm, container = fields[-3:]
            fields[-3:] = (
                _text(comm, lengths & 0xFF), _text(container, lengths >> 8 & 0xFF),
                _error_of(lengths >> 16 & 0xFFFF),
            )  # fmt: skip
            found.append(Open(at, kind, *fields))
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

    def _extend(self) -> int:
        at = self.words[OPENS_HIGH]
        if at >= OPENS_END:
            return _NOWHERE
        self.words[OPENS_HIGH] = at + _STRIDE
        return at


def _number_of(error: str) -> int:
    return _INVISIBLE if error == INVISIBLE else getattr(errno, error, errno.EIO)


def _error_of(number: int) -> str | None:
    return INVISIBLE if number == _INVISIBLE else errno.errorcode.get(number)


def _text(content: bytes, length: int) -> str | None:
    return None if length == _NONE else content[:length].decode(errors="replace")
