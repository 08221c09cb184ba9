"""The table of known inodes: node id <-> host object, lookup counts, paths.

Node ids: the root is 1 (FUSE_ROOT_ID). Any other object has its host inode number as node id
where that is free, so that clients see the numbers the host shows and see them again after a
remount. What cannot have it gets a number of its own from FIRST_OWN_INO upwards: objects on other
file systems mounted below the source, and objects whose number the kernel still uses for
something else.
"""

import stat
from collections.abc import Callable
from os import stat_result
from typing import Final

from fusevol.inodes.inode import Directory, Inode

ROOT_INO: Final = 1
FIRST_OWN_INO: Final = 1 << 48
"""Above the inode numbers that ext4, XFS, btrfs and tmpfs give in practice, and below 2**53, up to
which readers of JSON that use doubles tell integers apart."""


class InodeTable:
    """All inodes the kernel knows, and the directories on the way to them."""

    def __init__(self, root: stat_result, on_drop: Callable[[Inode], None]) -> None:
        """Start with the root.

        Args:
            root: result of stat(2) on the source.
            on_drop: is told of each inode that is no longer known, to release what it holds.
        """
        self.epoch = 0
        """Grows whenever a directory changes its path, which makes remembered paths invalid."""
        self.root: Inode
        if stat.S_ISDIR(root.st_mode):
            self.root = Directory(ROOT_INO, root.st_dev, root.st_ino, None, b"")
        else:
            kind = stat.S_IFMT(root.st_mode)
            self.root = Inode(ROOT_INO, root.st_dev, root.st_ino, kind, None, b"")
        self.root.lookups = 1
        self._by_ino: dict[int, Inode] = {ROOT_INO: self.root}
        self._by_host: dict[int, dict[int, Inode]] = {root.st_dev: {root.st_ino: self.root}}
        self._next_own_ino = FIRST_OWN_INO
        self._on_drop = on_drop

    def __len__(self) -> int:
        return len(self._by_ino)

    def __getitem__(self, ino: int) -> Inode:
        """Return the inode with node id `ino`; KeyError if the kernel was never told of it."""
        return self._by_ino[ino]

    def find(self, status: stat_result) -> Inode | None:
        """Return the known inode of the host object that `status` describes, or None."""
        inode = self._by_host.get(status.st_dev, {}).get(status.st_ino)
        if inode is not None and inode.kind == stat.S_IFMT(status.st_mode):
            return inode
        return None

    def seen(self, parent: Directory, name: bytes, status: stat_result) -> Inode:
        """Return the inode of the object found under `name` in `parent`, new or known.

        The caller adds to `lookups` if the reply reaches the kernel, and calls `drop_if_unused`
        if it does not.
        """
        on_device = self._by_host.get(status.st_dev)
        if on_device is None:
            on_device = self._by_host[status.st_dev] = {}
        inode = on_device.get(status.st_ino)
        if inode is None or inode.kind != status.st_mode & 0o170000:
            # With another type it is another object that got the number of one that is gone.
            inode = self._add(parent, name, status, on_device)
        elif inode.parent is not parent or inode.name != name:
            self.move(inode, parent, name)
        return inode

    def _add(
        self, parent: Directory, name: bytes, status: stat_result, on_device: dict[int, Inode]
    ) -> Inode:
        host_ino = status.st_ino
        ino = host_ino
        if status.st_dev != self.root.dev or ino <= ROOT_INO or ino in self._by_ino:
            ino = self._own_ino()
        inode: Inode
        if stat.S_ISDIR(status.st_mode):
            inode = Directory(ino, status.st_dev, host_ino, parent, name)
        else:
            kind = status.st_mode & 0o170000
            inode = Inode(ino, status.st_dev, host_ino, kind, parent, name)
        parent.children += 1
        on_device[host_ino] = inode
        self._by_ino[ino] = inode
        return inode

    def _own_ino(self) -> int:
        while self._next_own_ino in self._by_ino:
            self._next_own_ino += 1
        self._next_own_ino += 1
        return self._next_own_ino - 1

    def move(self, inode: Inode, parent: Directory, name: bytes) -> None:
        """Note that `inode` is now found under `name` in `parent`.

        The root, and a directory that is found in itself (a bind mount can do that), keep the
        place they have: a path has to end.
        """
        if inode is self.root or inode is parent:
            return
        if inode.parent is not parent:
            if isinstance(inode, Directory):
                self._untangle(inode, parent)
            if inode.parent is not None:
                inode.parent.children -= 1
            parent.children += 1
            old, inode.parent = inode.parent, parent
            if old is not None:
                self.drop_if_unused(old)
        inode.name = name
        inode.removed = False
        if isinstance(inode, Directory):
            self.epoch += 1

    def _untangle(self, inode: Directory, parent: Directory) -> None:
        """Take out of `inode` what leads to `parent`, as `inode` is about to move below `parent`.

        On the host two directories may change places, and no request tells of it. If each became
        an ancestor of the other, every walk up to the root would go round for ever.
        """
        above = parent
        while above.parent is not None:
            if above.parent is inode:
                # Where it is now shows when it is looked up again; its descriptor or handle, or
                # ESTALE, stand in until then.
                assert isinstance(self.root, Directory)
                inode.children -= 1
                self.root.children += 1
                above.parent = self.root
                return
            above = above.parent

    def gone(self, inode: Inode) -> None:
        """Note that the host object is no more: what has its number now is another one."""
        on_device = self._by_host[inode.dev]
        if on_device.get(inode.host_ino) is inode:
            del on_device[inode.host_ino]

    def forget(self, ino: int, lookups: int) -> None:
        """Give back references of the kernel. Never raises: the kernel cannot be told."""
        inode = self._by_ino.get(ino)
        if inode is not None:
            inode.lookups -= lookups
            self.drop_if_unused(inode)

    def drop_if_unused(self, inode: Inode) -> None:
        """Remove `inode`, and then its ancestors, as far as nothing refers to them any more."""
        while inode.lookups <= 0 and inode is not self.root and not inode.files:
            if isinstance(inode, Directory) and inode.children:
                return
            if self._by_ino.pop(inode.ino, None) is None:
                return
            on_device = self._by_host[inode.dev]
            if on_device.get(inode.host_ino) is inode:
                del on_device[inode.host_ino]
            self._on_drop(inode)
            if inode.parent is None:
                return
            inode.parent.children -= 1
            inode = inode.parent
