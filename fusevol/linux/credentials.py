"""Whose credentials this thread uses when it touches the host: ids, groups, capabilities.

Everything here is per thread (credentials(7)); the functions must be called on the thread that
makes the system calls, and a change of identity must never span an await. Changes nest: the end of
a block puts back what was there at its beginning. A thread that cannot be put back ends the
process, as it would serve others with rights that are not its own.
"""

import ctypes
import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fusevol.linux.libc import checked, libc, quick_libc

CAP_CHOWN: Final = 0
CAP_DAC_READ_SEARCH: Final = 2
CAP_FOWNER: Final = 3
CAP_FSETID: Final = 4
CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
CAP_SETPCAP: Final = 8
CAP_SYS_ADMIN: Final = 21
CAP_SYS_RESOURCE: Final = 24

_PR_SET_SECUREBITS: Final = 28
_SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
_CAPABILITY_VERSION_3: Final = 0x20080522
_SYS_SETGROUPS: Final = 116 if platform.machine() == "x86_64" else 159
"""159 in the table that newer architectures share. The C library's changes all threads."""
_NO_ID: Final = 0xFFFFFFFF
_CANNOT_RESTORE: Final = b"fusevol: credentials of a thread cannot be restored; the process ends\n"


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
_setfsuid.restype = ctypes.c_uint32
_setfsgid = quick_libc.setfsgid
_setfsgid.argtypes = (ctypes.c_uint32,)
_setfsgid.restype = ctypes.c_uint32
_header = _Header(_CAPABILITY_VERSION_3, 0)


def _capget() -> "ctypes.Array[_Sets]":
    sets = (_Sets * 2)()
    checked(quick_libc.capget(ctypes.byref(_header), sets))
    return sets


def _capset(sets: "ctypes.Array[_Sets]") -> None:
    checked(quick_libc.capset(ctypes.byref(_header), sets))


def _setgroups(groups: tuple[int, ...]) -> None:
    numbers = (ctypes.c_uint32 * len(groups))(*groups)
    checked(quick_libc.syscall(_SYS_SETGROUPS, len(groups), numbers))


def has_capability(capability: int) -> bool:
    """Return whether `capability` (a number of capability.h) is in this thread's effective set."""
    return bool(_capget()[capability // 32].effective >> capability % 32 & 1)


def is_permitted(capability: int) -> bool:
    """Return whether this thread may put `capability` into effect."""
    return bool(_capget()[capability // 32].permitted >> capability % 32 & 1)


def set_effective(capability: int, on: bool) -> None:
    """Raise or lower one permitted capability of this thread.

    Raises:
        OSError: EPERM if it is to be raised and is not in the permitted set.
    """
    sets = _capget()
    _set(sets, capability, on)
    _capset(sets)


def _set(sets: "ctypes.Array[_Sets]", capability: int, on: bool) -> None:
    bit = 1 << capability % 32
    if on:
        sets[capability // 32].effective |= bit
    else:
        sets[capability // 32].effective &= ~bit


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
    """Touch the host as `uid` and `gid` inside the block: what is made there belongs to them.

    Raises:
        OSError: ENOMEM if the kernel has not changed them; setfsuid(2) itself does not report it.
    """
    own_gid = _setfsgid(gid)
    own_uid = _setfsuid(uid)
    try:
        _check_ids(uid, gid)
        yield
    finally:
        _setfsuid(own_uid)
        _setfsgid(own_gid)
        with _or_end():
            _check_ids(own_uid, own_gid)


def _check_ids(uid: int, gid: int) -> None:
    # An id that is not valid changes nothing, and the call returns the one that is in force.
    if _setfsuid(_NO_ID) != uid or _setfsgid(_NO_ID) != gid:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


@contextmanager
def supplementary_groups(groups: tuple[int, ...]) -> Iterator[None]:
    """Have just these supplementary groups inside the block.

    Raises:
        OSError: ENOMEM; EPERM without CAP_SETGID.
    """
    own = tuple(os.getgroups())
    if groups == own:
        yield
        return
    _setgroups(groups)
    try:
        yield
    finally:
        with _or_end():
            _setgroups(own)


@contextmanager
def effective(capability: int, on: bool) -> Iterator[None]:
    """Have one permitted capability in effect inside the block, or not.

    Raises:
        OSError: EPERM if it is to be in effect and is not permitted; ENOMEM.
    """
    own = _capget()
    sets = _capget()
    _set(sets, capability, on)
    _capset(sets)
    try:
        yield
    finally:
        with _or_end():
            _capset(own)


@contextmanager
def _or_end() -> Iterator[None]:
    """End the process if the block fails: nothing may be served with another's credentials."""
    try:
        yield
    except BaseException:
        try:
            os.write(2, _CANNOT_RESTORE)
        finally:
            os._exit(1)
