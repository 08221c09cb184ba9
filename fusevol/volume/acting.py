"""As whom calls on the host are made: as the worker, but for the rows of one table.

The kernel decides who may do what, by the client's own credentials and before a request is sent
(default_permissions). So the worker makes calls as itself: it may do all that clients may. But some
calls have another *effect* for the client than for the worker. For those, and for no others, it
takes on of the client what the effect depends on: for the one call, on the thread that makes it.

A client's fsuid and fsgid come with its request. Groups and capabilities are those that /proc shows
of its thread, which waits. Where that thread is not visible, or has other ids than the request (it
acts for another, as overlayfs does), it is taken to have no groups; its capabilities, which are not
known either, are taken as each row says. A capability in another user namespace than the worker's
counts as it does for the kernel: only over objects whose owner and group have ids there.

The table errs on one side: no client gets more than the worker would do for it without the table.
"""

import enum
import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Final, NamedTuple, ParamSpec, TypeVar

from fusevol.linux.credentials import (
    CAP_FOWNER,
    CAP_FSETID,
    CAP_SYS_ADMIN,
    CAP_SYS_RESOURCE,
    effective,
    filesystem_identity,
    is_permitted,
    supplementary_groups,
)
from fusevol.linux.thread_credentials import ThreadCredentials, credentials_of

P = ParamSpec("P")
T = TypeVar("T")


class Takes(enum.Flag):
    """What of the client is taken on."""

    IDS = enum.auto()
    """fsuid and fsgid."""
    GROUPS = enum.auto()
    """Its supplementary groups."""
    FSETID = enum.auto()
    """CAP_FSETID, which the worker is without, if the client has it."""
    CHECKED_FSETID = enum.auto()
    """CAP_FSETID in any case: the kernel has checked the client's, and sent what is left."""
    NO_SYS_ADMIN = enum.auto()
    """To be without CAP_SYS_ADMIN, if the client is known to be."""
    NO_FOWNER = enum.auto()
    """To be without CAP_FOWNER, unless the client is known to have it."""
    SYS_RESOURCE = enum.auto()
    """CAP_SYS_RESOURCE, which the worker is without, if the client has it."""


class Row(NamedTuple):
    """One kind of call.

    Attributes:
        takes: what is taken on.
        of_modes: whether that has an effect on an object with this st_mode; None if always.
        why: the effect.
        source: manual page, function of the kernel.
    """

    takes: Takes
    of_modes: Callable[[int], bool] | None
    why: str
    source: str


def _has_set_id(mode: int) -> bool:
    return stat.S_ISREG(mode) and bool(mode & SET_ID)


def _can_lose_set_id(mode: int) -> bool:
    return not stat.S_ISDIR(mode) and bool(mode & SET_ID)


def _has_set_group_id(mode: int) -> bool:
    return bool(mode & stat.S_ISGID)


def _has_set_group_id_alone(mode: int) -> bool:
    return not stat.S_ISDIR(mode) and mode & (stat.S_ISGID | stat.S_IXGRP) == stat.S_ISGID


SET_ID: Final = stat.S_ISUID | stat.S_ISGID

_AS_MEMBER: Final = Takes.IDS | Takes.GROUPS | Takes.FSETID
MAKE: Final = Row(
    Takes.IDS, None,
    "a new object belongs to its maker",
    "open(2), mkdir(2), mknod(2), symlink(2); inode_init_owner(), fs/inode.c",
)  # fmt: skip
MAKE_SET_GROUP_ID: Final = Row(
    Takes.IDS | Takes.CHECKED_FSETID, None,
    "the set-group-ID bit of a new file stays if its maker is in the group",
    "open(2), mknod(2); mode_strip_sgid(), fs/inode.c",
)  # fmt: skip
WHITEOUT: Final = Row(
    Takes.IDS, None,
    "the object that a rename leaves behind belongs to the client",
    "rename(2), RENAME_WHITEOUT; vfs_whiteout(), fs/namei.c",
)  # fmt: skip
CHMOD: Final = Row(
    Takes.CHECKED_FSETID, None,
    "only members of the group may set the set-group-ID bit",
    "chmod(2); setattr_prepare(), fs/attr.c",
)  # fmt: skip
CHOWN: Final = Row(
    _AS_MEMBER, _has_set_group_id_alone,
    "the set-group-ID bit of a file without x for the group stays if a member changes owners",
    "chown(2); setattr_should_drop_sgid(), fs/attr.c",
)  # fmt: skip
CHOWN_NOTHING: Final = Row(
    _AS_MEMBER | Takes.NO_FOWNER, _can_lose_set_id,
    "set-ID bits go although owner and group stay, which is for the owner: of this call the kernel "
    "sends, and has checked, nothing",
    "chown(2); notify_change(), fs/attr.c; fuse_setattr(), fs/fuse/dir.c",
)  # fmt: skip
SET_ACL: Final = Row(
    _AS_MEMBER, _has_set_group_id,
    "the set-group-ID bit stays if a member of the group sets the list",
    "acl(5); posix_acl_update_mode(), fs/posix_acl.c",
)  # fmt: skip
CHANGE_CONTENT: Final = Row(
    _AS_MEMBER, _has_set_id,
    "set-ID bits go when the content changes, except by CAP_FSETID, or by a member of the group "
    "where it has no x",
    "write(2), truncate(2), open(2) with O_TRUNC; setattr_should_drop_suidgid(), fs/attr.c",
)  # fmt: skip
CHANGE_CONTENT_MAPPED: Final = Row(
    Takes.CHECKED_FSETID, _has_set_id,
    "set-ID bits stay when a mapping changes the content, whoever stores to it",
    "mmap(2); file_update_time() in place of file_remove_privs(), mm/filemap.c",
)  # fmt: skip
LIST_NAMES: Final = Row(
    Takes.NO_SYS_ADMIN, None,
    "names of trusted.* are for those with CAP_SYS_ADMIN",
    "listxattr(2), xattr(7); ext4_xattr_trusted_list(), fs/ext4/xattr_trusted.c",
)  # fmt: skip
NEAR_RESERVE: Final = Row(
    Takes.IDS, None,
    "reserved blocks are for one user, mostly root",
    "mke2fs(8), -m; ext4(5), resuid; ext4_has_free_clusters(), fs/ext4/balloc.c",
)  # fmt: skip
LIMIT_REACHED: Final = Row(
    _AS_MEMBER | Takes.SYS_RESOURCE, None,
    "CAP_SYS_RESOURCE overrides quotas and reserves; a group may have the reserve, too",
    "quotactl(2), ext4(5), resgid; ignore_hardlimit(), fs/quota/dquot.c",
)  # fmt: skip

LIMITS: Final = (errno.EDQUOT, errno.ENOSPC)
"""Errors of calls that met a limit: `Acting.beyond_limit`."""
_LOOKED_UP: Final = Takes.GROUPS | Takes.FSETID | Takes.NO_SYS_ADMIN | Takes.SYS_RESOURCE
_NOTHING: Final = nullcontext()


class Client:
    """The thread that a request comes from.

    Attributes:
        uid, gid: its fsuid and fsgid.
        umask: of its process.
        tid: its number in our pid namespace, 0 if it has none there.
    """

    __slots__ = ("gid", "tid", "uid", "umask")

    def __init__(self, uid: int, gid: int, umask: int = 0, tid: int = 0) -> None:
        self.uid = uid
        self.gid = gid
        self.umask = umask
        self.tid = tid

    def credentials(self) -> ThreadCredentials | None:
        """Return what /proc shows of it while it waits; None if that is not what it acts as."""
        try:
            found = credentials_of(self.tid)
        except OSError:
            return None
        return found if (found.fsuid, found.fsgid) == (self.uid, self.gid) else None


class Acting:
    """Makes calls of one volume as the table says. Any thread."""

    def __init__(self, privileged: bool) -> None:
        """Prepare.

        Args:
            privileged: this process may act for others (`take_credentials`); else all is done as
                itself.
        """
        self._privileged = privileged
        self._umask = os.umask(0)
        os.umask(self._umask)

    def as_client(
        self,
        row: Row,
        client: Client,
        status: os.stat_result | None = None,
        gid: int | None = None,
    ) -> AbstractContextManager[None]:
        """Return a context in which calls are made as `row` says; no await inside.

        Args:
            status: of the object that is changed, where the row depends on it.
            gid: group that it gets.
        """
        if not self._privileged:
            return _NOTHING
        if row.of_modes is not None and status is not None and not row.of_modes(status.st_mode):
            return _NOTHING
        if row.takes is Takes.IDS:
            return filesystem_identity(client.uid, client.gid)
        return _taking(row.takes, client, status, gid)

    def make(
        self, client: Client, mode: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Make the one system call that creates an object, so that it belongs to `client`.

        The host applies the client's umask or the parent's default ACL, whichever counts
        (umask(2), acl(5)).
        """
        if client.umask != self._umask:
            os.umask(client.umask)
            self._umask = client.umask
        try:
            with self._as_maker(client, mode):
                return call(*args, **kwargs)
        except OSError as error:
            allowed = self.beyond_limit(error, client)
            if allowed is None:
                raise
        with allowed, self._as_maker(client, mode):
            return call(*args, **kwargs)

    def _as_maker(self, client: Client, mode: int) -> AbstractContextManager[None]:
        if mode & stat.S_ISGID:
            return self.as_client(MAKE_SET_GROUP_ID, client)
        if client.uid == 0 and client.gid == 0:
            return _NOTHING
        return self.as_client(MAKE, client)

    def beyond_limit(self, error: OSError, client: Client) -> AbstractContextManager[None] | None:
        """Return a context in which to repeat what failed by a limit of the host.

        Returns:
            None if it did not, or the limit binds the client.
        """
        if not self._privileged or error.errno not in LIMITS:
            return None
        known = client.credentials()
        if known is None or (error.errno == errno.EDQUOT and not known.has(CAP_SYS_RESOURCE)):
            return None
        return _taking(LIMIT_REACHED.takes, client, None, None)


@contextmanager
def _taking(
    takes: Takes, client: Client, status: os.stat_result | None, gid: int | None
) -> Iterator[None]:
    known = client.credentials() if takes & _LOOKED_UP else None
    with ExitStack() as stack:
        for change in _changes(takes, client, known, status, gid):
            stack.enter_context(change)
        yield


def _changes(
    takes: Takes,
    client: Client,
    known: ThreadCredentials | None,
    status: os.stat_result | None,
    gid: int | None,
) -> Iterator[AbstractContextManager[None]]:
    if Takes.GROUPS in takes:
        yield supplementary_groups(_groups(known, status, gid))
    if Takes.IDS in takes:
        yield filesystem_identity(client.uid, client.gid)
    if Takes.CHECKED_FSETID in takes:
        yield effective(CAP_FSETID, True)
    if Takes.NO_FOWNER in takes and not _is_like_owner(known, status):
        yield effective(CAP_FOWNER, False)
    if known is None:
        return
    if Takes.FSETID in takes and known.has(CAP_FSETID):
        yield effective(CAP_FSETID, True)
    if Takes.NO_SYS_ADMIN in takes and not known.has(CAP_SYS_ADMIN):
        yield effective(CAP_SYS_ADMIN, False)
    if Takes.SYS_RESOURCE in takes and _may_exceed(known):
        yield effective(CAP_SYS_RESOURCE, True)


def _may_exceed(known: ThreadCredentials) -> bool:
    return known.has(CAP_SYS_RESOURCE) and is_permitted(CAP_SYS_RESOURCE)


def _is_like_owner(known: ThreadCredentials | None, status: os.stat_result | None) -> bool:
    return known is not None and status is not None and known.has_over(CAP_FOWNER, status)


def _groups(
    known: ThreadCredentials | None, status: os.stat_result | None, gid: int | None
) -> tuple[int, ...]:
    """Return the groups to have, for a call on an object with `status`.

    In a child user namespace CAP_FSETID does for the object's group, and for `gid` that it gets,
    what a membership in it does, and no more: in_group_or_capable(), fs/inode.c. All else asks
    for it in the first namespace.
    """
    if known is None:
        return ()
    if status is not None and known.has_over(CAP_FSETID, status):
        return (*known.groups, status.st_gid, status.st_gid if gid is None else gid)
    return known.groups
