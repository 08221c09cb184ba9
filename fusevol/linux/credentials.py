"""Whose credentials this thread uses when it touches the host: fsuid, fsgid, capabilities.

Everything here is per thread (credentials(7)); the functions must be called on the thread that
makes the system calls, and a change of identity must never span an await.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fusevol.linux.libc import checked, libc, quick_libc

CAP_CHOWN: Final = 0
CAP_DAC_READ_SEARCH: Final = 2
CAP_FSETID: Final = 4
CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
CAP_SETPCAP: Final = 8
CAP_SYS_ADMIN: Final = 21

_PR_SET_SECUREBITS: Final = 28
_SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
_CAPABILITY_VERSION_3: Final = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


_setfsuid = quick_libc.setfsuid
_setfsuid.argtypes = (ctypes.c_uint32,)
_setfsgid = quick_libc.setfsgid
_setfsgid.argtypes = (ctypes.c_uint32,)
_header = _Header(_CAPABILITY_VERSION_3, 0)


def _capget() -> "ctypes.Array[_Sets]":
    sets = (_Sets * 2)()
    checked(quick_libc.capget(ctypes.byref(_header), sets))
    return sets


def has_capability(capability: int) -> bool:
    """Return whether `capability` (a number of capability.h) is in this thread's effective set."""
    return bool(_capget()[capability // 32].effective >> capability % 32 & 1)


def set_effective(capability: int, on: bool) -> None:
    """Raise or lower one permitted capability of this thread.

    Raises:
        OSError: EPERM if it is to be raised and is not in the permitted set.
    """
    sets = _capget()
    bit = 1 << capability % 32
    if on:
        sets[capability // 32].effective |= bit
    else:
        sets[capability // 32].effective &= ~bit
    checked(quick_libc.capset(ctypes.byref(_header), sets))


def keep_capabilities_across_fsuid() -> None:
    """Keep the effective capabilities when the fsuid leaves 0 (SECBIT_NO_SETUID_FIXUP).

    Without it a file created for another user would be checked against that user's rights a
    second time, and without the user's supplementary groups, which FUSE does not report. The kernel
    has already checked them on the caller's side (default_permissions).

    Raises:
        OSError: EPERM without CAP_SETPCAP.
    """
    checked(libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0))


@contextmanager
def filesystem_identity(uid: int, gid: int) -> Iterator[None]:
    """Make what is created inside the block belong to `uid` and `gid`; no await inside."""
    _setfsgid(gid)
    _setfsuid(uid)
    try:
        yield
    finally:
        _setfsuid(0)
        _setfsgid(0)


@contextmanager
def keeping_set_id_bits() -> Iterator[None]:
    """Let the calls inside the block keep set-user-ID and set-group-ID bits (CAP_FSETID)."""
    set_effective(CAP_FSETID, True)
    try:
        yield
    finally:
        set_effective(CAP_FSETID, False)
