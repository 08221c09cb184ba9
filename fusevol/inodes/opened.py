"""What clients hold open: files and directories, by the handle number the kernel was given."""

import os
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from fusevol.inodes.inode import Directory, Inode

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusevol.model import Caller


UNKNOWN_POSITION: Final = -1
"""Where a directory stands that another worker has read from."""


class Opened:
    """Something open.

    Attributes:
        fh: handle number, never used twice.
        at: place of its open entry in the recovery state.
        inode: what is open.
        fd: descriptor on the host, owned by this object.
        caller, uid, gid: who opened it; FUSE does not tell who reads and writes.
    """

    __slots__ = ("at", "caller", "fd", "fh", "gid", "inode", "uid")

    def __init__(self, inode: Inode, fd: int, caller: "Caller", uid: int, gid: int) -> None:
        self.fh = 0
        self.at = 0
        self.inode = inode
        self.fd = fd
        self.caller = caller
        self.uid = uid
        self.gid = gid


class OpenFile(Opened):
    """An open file.

    Attributes:
        flags: open(2) flags of the client.
        waits: a write may wait for a device or another machine.
        keeps_set_id: the opener may write without clearing set-user-ID and set-group-ID bits.
        by_ring: a thread of io_uring has opened it.
        bytes_read, bytes_written: totals, reported at release.
    """

    __slots__ = ("by_ring", "bytes_read", "bytes_written", "flags", "keeps_set_id", "waits")

    def __init__(
        self, inode: Inode, fd: int, flags: int, caller: "Caller", uid: int, gid: int
    ) -> None:
        # Written out instead of super(): one is made for each open(2).
        self.fh = 0
        self.at = 0
        self.inode = inode
        self.fd = fd
        self.caller = caller
        self.uid = uid
        self.gid = gid
        self.flags = flags
        self.waits = False
        self.keeps_set_id = False
        self.by_ring = False
        self.bytes_read = 0
        self.bytes_written = 0

    @property
    def writable(self) -> bool:
        """Whether the client may write through this handle."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class OpenDirectory(Opened):
    """An open directory and how far it was read.

    Attributes:
        position: where the entries of `pending` begin, as the client was told.
        host_position: the same as lseek(2) takes it on the host, or somewhat before.
        wide: positions on the host do not fit 32 bits; None if that is not known yet.
        pending: entries read from the host and not yet delivered, next one last.
    """

    __slots__ = ("host_position", "pending", "position", "wide")

    inode: Directory

    def __init__(self, inode: Directory, fd: int, caller: "Caller", uid: int, gid: int) -> None:
        super().__init__(inode, fd, caller, uid, gid)
        self.position = 0
        self.host_position = 0
        self.wide: bool | None = None
        self.pending: list[tuple[bytes, int]] = []


T = TypeVar("T", bound=Opened)


class OpenTable(Generic[T]):
    """Handle number -> what is open under it."""

    def __init__(self, next_fh: int = 1) -> None:
        self._by_fh: dict[int, T] = {}
        self.next_fh = next_fh
        """Handle number of what is added next."""
        self.get: Callable[[int], T] = self._by_fh.__getitem__
        """Return what is open under a handle number; KeyError if nothing is."""

    def __len__(self) -> int:
        return len(self._by_fh)

    def add(self, opened: T) -> int:
        """Enter `opened`; return its handle number."""
        fh = self.next_fh
        self.next_fh = fh + 1
        opened.fh = fh
        self._by_fh[fh] = opened
        return fh

    def put_back(self, opened: T) -> None:
        """Enter what was open under its number before."""
        self._by_fh[opened.fh] = opened

    def remove(self, fh: int) -> None:
        """Take out what is open under `fh`; the caller closes its descriptor."""
        del self._by_fh[fh]
