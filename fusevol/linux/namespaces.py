"""Namespaces: making, entering and telling them apart (namespaces(7))."""

import ctypes
import os
from typing import Final

from fusevol.linux.libc import checked, libc

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000


def unshare(flags: int) -> None:
    """Leave the namespaces of the kinds CLONE_NEW* for new ones (unshare(2)).

    With CLONE_NEWPID the next child is in it, as its first process. CLONE_NEWNS takes the calling
    thread out of the others' working directory and root, so use it where there are no threads.
    """
    checked(libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    """Enter the namespace `fd` refers to; `kind` is its CLONE_NEW* (setns(2)).

    Raises:
        OSError: EPERM without rights over it; EINVAL for mount namespaces if threads share the
            working directory.
    """
    checked(libc.setns(fd, kind))


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` the root mount and put the old one at `put_old` (pivot_root(2))."""
    checked(libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)), new_root)


def set_host_name(name: str) -> None:
    """Set the host name of this process's UTS namespace (sethostname(2))."""
    raw = os.fsencode(name)
    checked(libc.sethostname(ctypes.c_char_p(raw), len(raw)), name)


def namespace_id(pid: int | str, kind: str) -> int:
    """Return the inode number that stands for a namespace of a process.

    Args:
        pid: process id, or "self".
        kind: the name in /proc/PID/ns: mnt, user, pid ...

    Raises:
        OSError: the process is gone, or not ours to look at.
    """
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino
