"""One host object as the kernel knows it."""

import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fusevol.inodes.opened import OpenFile

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
        size: length in bytes as the kernel was last told, or NO_SIZE if that is not known.
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
