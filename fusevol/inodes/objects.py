"""Host objects as the kernel knows them, and what clients hold open of them.

What is open has the handle number that the kernel was given.
"""

import os
import stat
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusevol.linux.reserved_blocks import Reserve
    from fusevol.model import Caller


NO_FD: Final = -1
NO_SIZE: Final = (1 << 64) - 1
"""No length of a file, and no place in one."""
ST_DEV: Final = 0xFFFFFFFF
"""The part of `Inode.dev` that is st_dev: as many bits as the kernel's dev_t has."""


class Inode:
    """A host object with a node id.

    There may be a million of these, hence the slots; docs/performance.md counts the bytes.

    Attributes:
        ino: node id, also the st_ino that clients see; never used twice while it is known.
        dev: st_dev on the host, and above its 32 bits the number of the mount on which the object
            is, 0 unless the source shows its file system at several places (`volume.places`).
        host_ino: st_ino on the host.
        kind: file type bits of st_mode.
        parent, name: the link through which it was last seen; None and b"" for the root.
        lookups: references the kernel holds, given back by FORGET. Changed by the table.
        fd: O_PATH descriptor that pins the object, or NO_FD. Owned by `volume.descriptors`.
        handle: file handle, known once a pin was given up, else None.
        chances: how many searches for a pin to give up its own survives; renewed when it is used.
        removed: no name leads here any more; the pin must be kept. Changed by the table.
        files: open files of this inode, or None.
        at: place of its node entry in the recovery state.
        size: length in bytes that the kernel last got, or NO_SIZE if that is not known.
        other_sizes: what it may be for the kernel instead: requests of others come between a reply
            that changes the length and the kernel's taking note of it.
        stamp: (mtime, ctime, size) of the data that the kernel may have cached, or None.
    """

    __slots__ = (
        "at",
        "chances",
        "dev",
        "fd",
        "files",
        "handle",
        "host_ino",
        "ino",
        "kind",
        "lookups",
        "name",
        "other_sizes",
        "parent",
        "removed",
        "size",
        "stamp",
    )

    def __init__(
        self, ino: int, dev: int, host_ino: int, kind: int, parent: "Directory | None", name: bytes
    ) -> None:
        self.ino = ino
        self.dev = dev
        self.host_ino = host_ino
        self.kind = kind
        self.parent = parent
        self.name = name
        self.lookups = 0
        self.at = 0
        self.fd = NO_FD
        self.handle: bytes | None = None
        self.chances = 0
        self.removed = False
        self.files: dict[int, OpenFile] | None = None
        self.size = NO_SIZE
        self.other_sizes: tuple[int, ...] = ()
        self.stamp: tuple[int, int, int] | None = None


class Directory(Inode):
    """A directory.

    Attributes:
        children: known inodes whose `parent` is this one; keep it known.
        opens: how often it is open; keeps it known, too.
        path_bytes: length of its path with a trailing "/", as long as `epoch` is the table's.
        prefix: text of that path; where it is too long to be written whole, that of an ancestor.
    """

    __slots__ = ("children", "epoch", "opens", "path_bytes", "prefix")

    def __init__(
        self, ino: int, dev: int, host_ino: int, parent: "Directory | None", name: bytes
    ) -> None:
        super().__init__(ino, dev, host_ino, stat.S_IFDIR, parent, name)
        self.children = 0
        self.opens = 0
        self.path_bytes = 0
        self.prefix = ""
        self.epoch = -1

    def beside(self, st_dev: int) -> int:
        """Return `dev` of what is found on device `st_dev` in this directory."""
        return self.dev & ~ST_DEV | st_dev


UNKNOWN_POSITION: Final = -1
"""Where a directory stands that another worker has read from."""


class Opened:
    """Something open.

    Attributes:
        fh: handle number, never used twice.
        at: place of its open entry in the recovery state.
        inode: what is open.
        fd: descriptor on the host, owned by this object.
        caller, uid, gid: of the opener; FUSE does not report the reader or writer.
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
        has_set_id: the file may have set-user-ID or set-group-ID bits, which writing clears.
        by_ring: a thread of io_uring has opened it.
        reserve: blocks of its file system that are not for the opener; None if there cannot be any.
        bytes_read, bytes_written: totals, reported at release.
    """

    __slots__ = (
        "by_ring", "bytes_read", "bytes_written", "flags", "has_set_id", "reserve", "waits",
    )  # fmt: skip

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
        self.has_set_id = False
        self.reserve: Reserve | None = None
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
        position: where the entries of `pending` begin, in the client's positions.
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
