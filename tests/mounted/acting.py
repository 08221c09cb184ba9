"""Acting as another user, in a thread of this process: no interpreter to start, nothing to quote.

The kernel keeps credentials per thread, while the C library's functions change all threads. These
are the bare system calls. A thread that gave up root never gets it back, so it ends with the block.
"""

import ctypes
import os
import platform
import threading
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from fusevol.linux.libc import checked, libc

T = TypeVar("T")


class _Numbers(NamedTuple):
    setgroups: int
    setresgid: int
    setresuid: int


_NUMBERS: Final = {
    "x86_64": _Numbers(116, 119, 117),
    "aarch64": _Numbers(159, 149, 147),
    "riscv64": _Numbers(159, 149, 147),
}


class User(NamedTuple):
    """Ids that a client has, supplementary groups included."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def acting_as(user: User, act: Callable[[], T]) -> T:
    """Return what `act` returns, called as `user` without any capability; raises what it raises."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            _become(user)
            results.append(act())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _become(user: User) -> None:
    numbers = _NUMBERS[platform.machine()]
    groups = (ctypes.c_uint32 * len(user.groups))(*user.groups)
    checked(libc.syscall(numbers.setgroups, len(user.groups), groups))
    checked(libc.syscall(numbers.setresgid, user.gid, user.gid, user.gid))
    checked(libc.syscall(numbers.setresuid, user.uid, user.uid, user.uid))


def with_umask(umask: int, act: Callable[[], T]) -> T:
    """Return what `act` returns, called with this umask."""
    old = os.umask(umask)
    try:
        return act()
    finally:
        os.umask(old)
