"""statx(2), for what stat(2) does not return."""

import ctypes
import os
import struct
from typing import Final

from fusevol.linux.libc import checked, libc

_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_NO_AUTOMOUNT: Final = 0x800
_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_INO: Final = 0x100
_STATX_MNT_ID: Final = 0x1000

_SIZE: Final = 256
_MASK: Final = struct.Struct("I")
_INO: Final = struct.Struct("Q")
_DEVICE: Final = struct.Struct("IIQ")  # stx_dev_major, stx_dev_minor, stx_mnt_id
_INO_AT: Final = 32
_DEVICE_AT: Final = 136


def mount_of_entry(dir_fd: int, name: bytes) -> tuple[int, int, int]:
    """Return the id of the mount that `name` leads to, and its st_dev and st_ino.

    The id is 0 before Linux 5.8. A symbolic link is not followed. Runs on any thread.

    Raises:
        OSError: as of stat(2).
    """
    buffer = ctypes.create_string_buffer(_SIZE)
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | _AT_STATX_DONT_SYNC
    checked(libc.statx(dir_fd, name, flags, _STATX_INO | _STATX_MNT_ID, buffer), name)
    (mask,) = _MASK.unpack_from(buffer)
    major, minor, mount_id = _DEVICE.unpack_from(buffer, _DEVICE_AT)
    (ino,) = _INO.unpack_from(buffer, _INO_AT)
    return (mount_id if mask & _STATX_MNT_ID else 0), os.makedev(major, minor), ino
