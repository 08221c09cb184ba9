"""Namespaces: making, entering and telling them apart (namespaces(7))."""

import os
from typing import Final

from fusevol.linux.libc import checked, libc

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000


def unshare(flags: int) -> None:
    """Leave the namespaces of the kinds CLONE_NEW* for new ones (unshare(2)).

    CLONE_NEWNS takes the calling
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


def namespace_id(pid: int | str, kind: str) -> int:
    """Return the inode number that stands for a namespace of a process.

    Args:
        pid: process id, or "self".
        kind: the name in /proc/PID/ns: mnt, user, pid ...

    Raises:
        OSError: the process is gone, or not ours to look at.
    """
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino


def id_map(pid: int | str, kind: str) -> list[tuple[int, int, int]]:
    """Return which ids a process's user namespace has (user_namespaces(7)).

    Args:
        kind: "uid" or "gid".

    Returns:
        Ranges: the first id inside, the first id outside, how many. Outside is the namespace that
        this process is in; if it is the process's own, the one above.

    Raises:
        OSError: the process is gone.
    """
    with open(f"/proc/{pid}/{kind}_map") as file:
        ranges = (line.split() for line in file)
        return [(int(inside), int(outside), int(count)) for inside, outside, count in ranges]
