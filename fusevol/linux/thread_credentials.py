"""Whose credentials another thread has, read from /proc while it waits for us.

They are its objective ones (credentials(7)): what the thread was given, not what it uses while it
acts for another (overlayfs, io_uring). Ids are as the user namespace of this process has them.
Nothing is remembered: a thread keeps its id when su(1) or unshare(2) changes what it may.
"""

import errno
import os
from functools import cache
from typing import NamedTuple

from fusevol.linux.namespaces import id_map, namespace_id


class UserNamespace(NamedTuple):
    """The ids of a user namespace, as ranges of ids of this process's."""

    uids: tuple[range, ...]
    gids: tuple[range, ...]

    def maps(self, uid: int, gid: int) -> bool:
        """Return whether both are ids of it, as privileged_wrt_inode_uidgid() does."""
        return any(uid in ids for ids in self.uids) and any(gid in ids for ids in self.gids)


class ThreadCredentials(NamedTuple):
    """What file systems ask of a thread (proc_pid_status(5)).

    Attributes:
        fsuid, fsgid: its ids for file systems.
        groups: its supplementary groups.
        effective: bits of its effective capabilities; 0 if it is not known where they count.
        namespace: the user namespace where they count, None for this process's own.
    """

    fsuid: int
    fsgid: int
    groups: tuple[int, ...]
    effective: int
    namespace: UserNamespace | None

    def has(self, capability: int) -> bool:
        """Return whether the thread has a capability where this process has its own.

        As capable() in kernel/capability.c.
        """
        return self.namespace is None and bool(self.effective >> capability & 1)

    def has_over(self, capability: int, owner: os.stat_result) -> bool:
        """Return whether the thread has a capability over an object with these attributes.

        As capable_wrt_inode_uidgid() in kernel/capability.c.
        """
        if not self.effective >> capability & 1:
            return False
        return self.namespace is None or self.namespace.maps(owner.st_uid, owner.st_gid)


def credentials_of(tid: int) -> ThreadCredentials:
    """Return the credentials of thread `tid`, which waits for us.

    Args:
        tid: its number in our pid namespace; 0 if it has none there.

    Raises:
        OSError: ESRCH or ENOENT if there is no such thread, or /proc numbers others than ours.
    """
    if tid <= 0 or not is_proc_ours():
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
    with open(f"/proc/{tid}/status", "rb") as file:
        lines = (line.partition(b":") for line in file)
        fields = {key: value for key, _, value in lines}
    effective, namespace = int(fields[b"CapEff"], 16), None
    try:
        namespace = _other_namespace_of(tid)
    except PermissionError:
        # Not to be traced (ptrace(2)), so it is not known where its capabilities count.
        effective = 0
    return ThreadCredentials(
        int(fields[b"Uid"].split()[3]),
        int(fields[b"Gid"].split()[3]),
        tuple(map(int, fields[b"Groups"].split())),
        effective,
        namespace,
    )


def _other_namespace_of(tid: int) -> UserNamespace | None:
    if namespace_id(tid, "user") == _own_user_namespace():
        return None
    return UserNamespace(_ids(tid, "uid"), _ids(tid, "gid"))


def _ids(tid: int, kind: str) -> tuple[range, ...]:
    return tuple(range(first, first + count) for _, first, count in id_map(tid, kind))


@cache
def _own_user_namespace() -> int:
    return namespace_id("self", "user")


@cache
def is_proc_ours() -> bool:
    """Return whether /proc numbers processes as the kernel does in requests.

    In a pid namespace of its own with the /proc of another one, each id would be another process's.
    """
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False
