"""The INIT message: what the kernel offers and what fusevol takes.

See struct fuse_init_in and fuse_init_out in linux/fuse.h.

libfuse answers INIT. Its reply passes through here, because libfuse 3.14 does not know, or computes
and does not send, some flags that a volume needs. Flags that change the layout of messages must
never be added (SETXATTR_EXT, SECURITY_CTX, CREATE_SUPP_GROUP): libfuse would misread them.
"""

import enum
import struct
from typing import Final

_IN_HEADER_BYTES: Final = 40
_OUT_HEADER_BYTES: Final = 16
_INIT_IN: Final = struct.Struct("<IIIII")  # major minor max_readahead flags flags2
_INIT_OUT: Final = struct.Struct("<IIIIHHIIHHII")
"""major minor max_readahead flags max_background congestion_threshold max_write time_gran
max_pages map_alignment flags2 max_stack_depth"""
_INIT_OUT_BYTES: Final = 64

MAX_BACKGROUND: Final = 64
"""Readahead and asynchronous direct I/O requests at once; the kernel's default is 12."""
CONGESTION_THRESHOLD: Final = 48


class Flag(enum.IntFlag):
    """INIT flags by their names in fuse_kernel.h; 32 and up travel in flags2."""

    DONT_MASK = 1 << 6
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    HANDLE_KILLPRIV_V2 = 1 << 28
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    NO_EXPORT_SUPPORT = 1 << 38
    HAS_RESEND = 1 << 39


WANTED: Final = (
    # The host applies umask or default ACL, whichever counts.
    Flag.DONT_MASK
    # Look-ups in one directory need not wait for each other in the kernel.
    | Flag.PARALLEL_DIROPS
    # Writes clear set-ID bits and file capabilities here; saves a GETXATTR before each write.
    | Flag.HANDLE_KILLPRIV_V2
    # A container with CAP_DAC_READ_SEARCH must not open inodes by guessed handles.
    | Flag.NO_EXPORT_SUPPORT
    # Files that pass the page cache by can be mapped and shared all the same.
    | Flag.DIRECT_IO_ALLOW_MMAP
)


def offered(request: bytes) -> Flag:
    """Return the flags that the kernel offers in its INIT request."""
    _, _, _, low, high = _INIT_IN.unpack_from(request, _IN_HEADER_BYTES)
    if not low & Flag.INIT_EXT:
        high = 0
    return Flag(low | high << 32)


def protocol(request: bytes) -> tuple[int, int]:
    """Return major and minor version of the protocol that the kernel speaks."""
    major, minor, _, _, _ = _INIT_IN.unpack_from(request, _IN_HEADER_BYTES)
    return major, minor


def amend_reply(request: bytes, reply: bytes, wanted: Flag) -> tuple[bytes, Flag]:
    """Add to libfuse's INIT reply the `wanted` flags as far as the kernel offers them.

    Returns:
        The reply for the kernel, and all flags that it takes.
    """
    body = reply[_OUT_HEADER_BYTES:].ljust(_INIT_OUT_BYTES, b"\0")
    fields = list(_INIT_OUT.unpack_from(body))
    available = offered(request)
    taken = Flag(fields[3] | fields[10] << 32) | (wanted & available)
    if available & Flag.INIT_EXT:
        taken |= Flag.INIT_EXT
    fields[3] = taken & 0xFFFFFFFF
    fields[10] = taken >> 32
    fields[4] = MAX_BACKGROUND
    fields[5] = CONGESTION_THRESHOLD
    body = _INIT_OUT.pack(*fields).ljust(_INIT_OUT_BYTES, b"\0")
    _, error, unique = struct.unpack_from("<IiQ", reply)
    return struct.pack("<IiQ", _OUT_HEADER_BYTES + len(body), error, unique) + body, taken
