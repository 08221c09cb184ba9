"""io_uring for tests: one request at a time, by the bare system calls (io_uring(7))."""

import ctypes
import errno
import mmap
import os
import struct
from typing import Final, Self

from fusevol.linux.libc import checked, libc

CURRENT_POSITION: Final = -1

_SETUP: Final = 425
_ENTER: Final = 426
_OPENAT: Final = 18
_READ: Final = 22
_WRITE: Final = 23
_GETEVENTS: Final = 1
_AT_FDCWD: Final = -100
_CQ_RING: Final = 0x8000000
_ENTRIES: Final = 0x10000000
_PARAMETERS_BYTES: Final = 120
_OFFSETS: Final = struct.Struct("8I")
_SUBMISSION: Final = struct.Struct("<BBHiqQIIQ")  # of 64 bytes
_COMPLETION: Final = struct.Struct("<QiI")


class Ring:
    """A ring of this process.

    Raises:
        OSError: ENOSYS or EPERM where there is none.
    """

    def __init__(self) -> None:
        parameters = ctypes.create_string_buffer(_PARAMETERS_BYTES)
        self._fd = checked(libc.syscall(_SETUP, 1, parameters))
        self._sq = _OFFSETS.unpack_from(parameters.raw, 40)
        self._cq = _OFFSETS.unpack_from(parameters.raw, 80)
        self._submitted = self._map(mmap.PAGESIZE, 0)
        self._completed = self._map(mmap.PAGESIZE, _CQ_RING)
        self._entries = self._map(mmap.PAGESIZE, _ENTRIES)

    def _map(self, size: int, offset: int) -> mmap.mmap:
        return mmap.mmap(self._fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for mapped in (self._submitted, self._completed, self._entries):
            mapped.close()
        os.close(self._fd)

    def open(self, path: str | os.PathLike[str], flags: int, mode: int = 0o644) -> int:
        """Open a file as open(2) does."""
        name = ctypes.create_string_buffer(os.fsencode(path))
        return self._do(_OPENAT, _AT_FDCWD, 0, ctypes.addressof(name), mode, flags)

    def read(self, fd: int, size: int, offset: int = CURRENT_POSITION) -> bytes:
        """Read as read(2) or pread(2) do."""
        buffer = ctypes.create_string_buffer(size)
        length = self._do(_READ, fd, offset, ctypes.addressof(buffer), size)
        return buffer.raw[:length]

    def write(self, fd: int, data: bytes, offset: int = CURRENT_POSITION) -> int:
        """Write as write(2) or pwrite(2) do."""
        buffer = ctypes.create_string_buffer(data, len(data))
        return self._do(_WRITE, fd, offset, ctypes.addressof(buffer), len(data))

    def _do(self, op: int, fd: int, offset: int, address: int, size: int, flags: int = 0) -> int:
        _SUBMISSION.pack_into(self._entries, 0, op, 0, 0, fd, offset, address, size, flags, 0)
        tail, array = self._sq[1], self._sq[6]
        struct.pack_into("<I", self._submitted, array, 0)
        struct.pack_into("<I", self._submitted, tail, self._word(self._submitted, tail) + 1)
        checked(libc.syscall(_ENTER, self._fd, 1, 1, _GETEVENTS, None, 0))
        head, mask, entries = self._cq[0], self._cq[2], self._cq[5]
        at = self._word(self._completed, head)
        place = entries + _COMPLETION.size * (at & self._word(self._completed, mask))
        _, result, _ = _COMPLETION.unpack_from(self._completed, place)
        struct.pack_into("<I", self._completed, head, at + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return int(result)

    @staticmethod
    def _word(mapped: mmap.mmap, at: int) -> int:
        return int(struct.unpack_from("<I", mapped, at)[0])


def has_io_uring() -> bool:
    """Tell whether this process may have a ring."""
    try:
        with Ring():
            return True
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        return False
