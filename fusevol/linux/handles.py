"""File handles: a name for a host object that survives renames and detects inode reuse.

See open_by_handle_at(2). A handle holds the inode's generation, so that a handle of a deleted file
never opens the file that got its inode number later: the call fails with ESTALE.
"""

import ctypes
import struct
from typing import Final

from fusevol.linux.libc import checked, libc, quick_libc

_AT_EMPTY_PATH: Final = 0x1000
_MAX_HANDLE_SIZE: Final = 128
_HEAD: Final = struct.Struct("Ii")  # struct file_handle: handle_bytes, handle_type

_buffer = ctypes.create_string_buffer(_HEAD.size + _MAX_HANDLE_SIZE)
_mount_id = ctypes.c_int()

_name_to_handle_at = quick_libc.name_to_handle_at
_name_to_handle_at.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int,
)
_open_by_handle_at = libc.open_by_handle_at
_open_by_handle_at.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int)


def name_to_handle(fd: int) -> bytes:
    """Return the handle of what `fd` refers to, as the bytes of a struct file_handle.

    Not thread-safe: uses one buffer.

    Raises:
        OSError: EOPNOTSUPP if the file system gives no handles.
    """
    _HEAD.pack_into(_buffer, 0, _MAX_HANDLE_SIZE, 0)
    checked(_name_to_handle_at(fd, b"", _buffer, ctypes.byref(_mount_id), _AT_EMPTY_PATH))
    size, _ = _HEAD.unpack_from(_buffer)
    return _buffer.raw[: _HEAD.size + size]


def open_by_handle(mount_fd: int, handle: bytes, flags: int) -> int:
    """Open the object that `handle` names, on the file system that `mount_fd` is on.

    `mount_fd` must not be an O_PATH descriptor.

    Raises:
        OSError: ESTALE if the object is gone; EPERM without CAP_DAC_READ_SEARCH.
    """
    return checked(_open_by_handle_at(mount_fd, handle, flags))
