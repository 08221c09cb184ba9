"""Kinds of processes that act on a volume: users, groups, capabilities, user namespaces."""

import ctypes
import os
from typing import Final, NamedTuple

from fusevol.linux.credentials import CAP_CHOWN, CAP_FOWNER, CAP_FSETID, CAP_SYS_ADMIN
from fusevol.linux.libc import checked, libc

CAP_DAC_OVERRIDE: Final = 1
_ALL: Final = (1 << 41) - 1
_PR_SET_KEEPCAPS: Final = 8
_CAPABILITY_VERSION_3: Final = 0x20080522
IDS: Final = 65536


class Range(NamedTuple):
    """Ids of a user namespace: from 0 on those that are from `first` on outside."""

    first: int
    number: int


class Actor(NamedTuple):
    """One kind.

    Attributes:
        capabilities: bits of those it has, permitted and in effect.
        namespace: the user namespace it makes for itself, in which it has all capabilities.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    capabilities: int = 0
    namespace: Range | None = None


def _bits(*capabilities: int) -> int:
    return sum(1 << capability for capability in capabilities)


ACTORS: Final = {
    "root": Actor(0, 0, (), _ALL),
    "root without CAP_FSETID": Actor(0, 0, (), _ALL & ~_bits(CAP_FSETID)),
    "root without capabilities": Actor(0, 0, (2000,)),
    "user": Actor(1000, 1000, (2000, 3000)),
    "member": Actor(1001, 2000),
    "stranger": Actor(1002, 1002),
    "user with CAP_FSETID": Actor(1000, 1000, (), _bits(CAP_FSETID)),
    "user with CAP_CHOWN, CAP_FOWNER": Actor(1001, 1001, (), _bits(CAP_CHOWN, CAP_FOWNER)),
    "user with CAP_DAC_OVERRIDE": Actor(1002, 1002, (3000,), _bits(CAP_DAC_OVERRIDE)),
    "user with CAP_SYS_ADMIN": Actor(1000, 2000, (), _bits(CAP_SYS_ADMIN)),
    "root of a namespace with all ids": Actor(0, 0, (), 0, Range(0, IDS)),
    "root of a namespace of one id": Actor(1000, 1000, (), 0, Range(1000, 1)),
    "root of a container": Actor(100000, 100000, (), 0, Range(100000, IDS)),
}  # fmt: skip


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def take_on(actor: Actor) -> None:
    """Become `actor`, for good, in a process of one thread; its namespace comes afterwards."""
    checked(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    # The process is the actor's own.
    os.setgroups(actor.groups)  # noqa: TID251
    os.setresgid(actor.gid, actor.gid, actor.gid)  # noqa: TID251
    os.setresuid(actor.uid, actor.uid, actor.uid)  # noqa: TID251
    header, sets = _Header(_CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    checked(libc.capget(ctypes.byref(header), sets))
    for number, part in enumerate(sets):
        part.permitted &= actor.capabilities >> 32 * number & 0xFFFFFFFF
        part.effective = part.permitted
        part.inheritable = 0
    checked(libc.capset(ctypes.byref(header), sets))
    # /proc/PID belongs to the user again, whose files a namespace's maps are.
    checked(libc.prctl(4, 1, 0, 0, 0))
