"""Reading directories with the positions that telldir(3) hides: getdents64(2)."""

import ctypes
import struct
from typing import Final

from fusevol.linux.libc import checked, libc

BUFFER_BYTES: Final = 32768
"""One call returns some 500 to 1,300 entries; glibc's readdir uses the same size."""

_HEAD: Final = struct.Struct("QqHB")  # struct linux_dirent64: d_ino, d_off, d_reclen, d_type
_NAME: Final = 19  # offset of d_name, which no padding precedes

_getdents64 = libc.getdents64
_getdents64.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_getdents64.restype = ctypes.c_ssize_t


Entry = tuple[bytes, int]
"""Name, and where reading goes on after the entry (lseek(2) takes it)."""


def getdents(fd: int) -> list[Entry]:
    """Return the next entries of the directory open at `fd`, "." and ".." too; [] at the end."""
    buffer = ctypes.create_string_buffer(BUFFER_BYTES)
    size = checked(_getdents64(fd, buffer, BUFFER_BYTES))
    raw = buffer.raw
    unpack, end_of_name = _HEAD.unpack_from, raw.index
    entries = []
    at = 0
    while at < size:
        _, position, length, _ = unpack(raw, at)
        start = at + _NAME
        entries.append((raw[start : end_of_name(b"\0", start)], position))
        at += length
    return entries
