"""The table of known inodes: node id <-> host object, lookup counts, paths.

Node ids: the root is 1 (FUSE_ROOT_ID). Any other object has its host inode number as node id
where that is free, so that clients see the numbers the host shows and see them again after a
remount. What cannot have it gets a number of its own from FIRST_OWN_INO upwards: objects on other
file systems mounted below the source, or on the same one at another place, and objects whose number
the kernel still uses for something else.

Each inode has its node entry in the recovery state, which is changed along with it. An inode that
an earlier worker knew is dormant, known by its entry only, until somebody asks for it: taking over
a million of them takes no longer than listing them.
"""

import stat
from collections import Counter
from collections.abc import Callable
from os import stat_result
from typing import Final

from fusevol.inodes.objects import NO_FD, ST_DEV, Directory, Inode
from fusevol.recovery.nodes import EXTRA, NOWHERE, NodeEntries

ROOT_INO: Final = 1
FIRST_OWN_INO: Final = 1 << 48
"""Above the inode numbers that ext4, XFS, btrfs and tmpfs give in practice, and below 2**53, up to
which readers of JSON that use doubles tell integers apart."""


_UNCOUNTED: Final = 1 << 40
"""Stands for the children of a directory that were not counted yet."""


class InodeTable:
    """All inodes the kernel knows, and the directories on the way to them."""

    def __init__(
        self,
        root: stat_result,
        entries: NodeEntries,
        on_drop: Callable[[Inode], None],
        on_wake: Callable[[Inode], None],
    ) -> None:
        """Start with the root, and what stands in `entries`.

        Args:
            root: result of stat(2) on the source.
            entries: where the inodes are kept for a successor.
            on_drop: called for each inode that is no longer known, to release its resources.
            on_wake: called for each inode of an earlier worker, when it is first requested.
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
        self.root.at = NOWHERE
        self._by_ino: dict[int, Inode] = {ROOT_INO: self.root}
        self._by_host: dict[int, dict[int, Inode]] = {root.st_dev: {root.st_ino: self.root}}
        self._next_own_ino = FIRST_OWN_INO
        self._on_drop = on_drop
        self._on_wake = on_wake
        self._entries = entries
        self._dormant: dict[int, int] = {}
        self._dormant_by_host: dict[tuple[int, int], int] = {}
        self._dormant_children: Counter[int] = Counter()
        self._uncounted: list[Directory] = []
        self._owed: dict[int, int] = {}
        self._load()

    def _load(self) -> None:
        entries = self._entries
        self._dormant = dormant = entries.load()
        self._is_counted = not dormant
        if not dormant or max(dormant) < FIRST_OWN_INO:
            return
        for ino, at in dormant.items():
            identity = entries.identity(at)
            if ino >= FIRST_OWN_INO and identity is not None:
                self._dormant_by_host[identity] = ino
                if ino != identity[1]:
                    self._next_own_ino = max(self._next_own_ino, ino + 1)

    def count_children(self) -> None:
        """Count the children of directories that an earlier worker knew.

        Which takes a while if it knew many; until then such directories stay known.
        """
        if self._is_counted:
            return
        self._is_counted = True
        self._dormant_children = self._entries.children()
        if isinstance(self.root, Directory):
            self.root.children = self._dormant_children[ROOT_INO]
        uncounted, self._uncounted = self._uncounted, []
        for directory in uncounted:
            directory.children = self._dormant_children[directory.ino]
            self.drop_if_unused(directory)

    def __len__(self) -> int:
        return len(self._by_ino) + len(self._dormant)

    def __getitem__(self, ino: int) -> Inode:
        """Return the inode with node id `ino`; KeyError if the kernel never got it."""
        try:
            return self._by_ino[ino]
        except KeyError:
            return self._wake(ino)

    def shown_ino(self, inode: Inode) -> int:
        """Return the st_ino that clients see.

        At a second place of the source's own file system it is the host's again, as programs tell
        by it that they are where they were already.
        """
        if inode is self.root or (inode.dev > ST_DEV and inode.dev & ST_DEV == self.root.dev):
            return inode.host_ino
        return inode.ino

    def find(self, status: stat_result, dev: int = 0) -> Inode | None:
        """Return the known inode of the host object that `status` describes, or None.

        Args:
            dev: its `Inode.dev`, if that is not st_dev.
        """
        inode = self.find_host(dev or status.st_dev, status.st_ino)
        if inode is not None and inode.kind == stat.S_IFMT(status.st_mode):
            return inode
        return None

    def find_host(self, dev: int, host_ino: int) -> Inode | None:
        """Return the known inode with these numbers (`Inode.dev`, `host_ino`), or None."""
        inode = self._by_host.get(dev, {}).get(host_ino)
        if inode is None and self._dormant:
            return self._wake_host(dev, host_ino)
        return inode

    def _wake_host(self, dev: int, host_ino: int, kind: int = 0) -> Inode | None:
        """Return the dormant inode with these numbers, of that type unless `kind` is 0; or None."""
        at = self._dormant.get(host_ino)
        if at is not None and self._entries.identity(at) == (dev, host_ino):
            # With another type it is another object that got the number of one that is gone.
            is_same = not kind or self._entries.kind(at) == kind
            return self._wake(host_ino) if is_same else None
        ino = self._dormant_by_host.get((dev, host_ino))
        return self._wake(ino) if ino in self._dormant else None

    def pins_asleep(self) -> int:
        """Return how many dormant inodes have a pin."""
        return len(self._entries.pins()) if self._dormant else 0

    def wake_all(self) -> None:
        """Make every inode an object."""
        for ino in list(self._dormant):
            if ino in self._dormant:
                self._wake(ino)

    def _wake(self, ino: int) -> Inode:
        """Make a dormant inode an object, and its ancestors before it."""
        chain = {ino: None}
        above = ino
        while (above := self._entries.read(self._dormant[above]).parent) in self._dormant:
            if above in chain:
                break
            chain[above] = None
        for link in reversed(chain):
            self._wake_one(link)
        return self._by_ino[ino]

    def _wake_one(self, ino: int) -> None:
        at = self._dormant.pop(ino)
        node = self._entries.read(at)
        parent = self._by_ino.get(node.parent, self.root)
        assert isinstance(parent, Directory)
        inode: Inode
        if node.kind == stat.S_IFDIR:
            inode = directory = Directory(ino, node.dev, node.host_ino, parent, node.name)
            if self._is_counted:
                directory.children = self._dormant_children[ino]
            else:
                directory.children = _UNCOUNTED
                self._uncounted.append(directory)
        else:
            inode = Inode(ino, node.dev, node.host_ino, node.kind, parent, node.name)
        inode.at, inode.fd, inode.lookups = at, node.fd, node.lookups
        inode.handle, inode.removed = node.handle, node.removed
        self._by_ino[ino] = inode
        on_device = self._by_host.setdefault(node.dev, {})
        if not node.gone:
            on_device.setdefault(node.host_ino, inode)
        self._on_wake(inode)

    def seen(self, parent: Directory, name: bytes, status: stat_result, dev: int = 0) -> Inode:
        """Return the inode of the object found under `name` in `parent`, new or known.

        The caller calls `refer` if the reply reaches the kernel, and `drop_if_unused` if not.

        Args:
            dev: its `Inode.dev`, if that is not st_dev.
        """
        dev = dev or status.st_dev
        on_device = self._by_host.get(dev)
        if on_device is None:
            on_device = self._by_host[dev] = {}
        inode = on_device.get(status.st_ino)
        if inode is None and self._dormant:
            inode = self._wake_host(dev, status.st_ino, status.st_mode & 0o170000)
        if inode is None or inode.kind != status.st_mode & 0o170000:
            # With another type it is another object that got the number of one that is gone.
            inode = self._add(parent, name, status, dev)
        elif inode.parent is not parent or inode.name != name:
            self.move(inode, parent, name)
        return inode

    def _add(self, parent: Directory, name: bytes, status: stat_result, dev: int) -> Inode:
        host_ino = status.st_ino
        ino = host_ino
        references = 0
        if ino in self._dormant and dev == self.root.dev:
            references = self._take_from_dead(ino)
        if dev != self.root.dev or ino <= ROOT_INO or self._is_taken(ino):
            ino = self._own_ino()
        inode: Inode
        if stat.S_ISDIR(status.st_mode):
            inode = Directory(ino, dev, host_ino, parent, name)
        else:
            kind = status.st_mode & 0o170000
            inode = Inode(ino, dev, host_ino, kind, parent, name)
        parent.children += 1
        self._by_host[dev][host_ino] = inode
        self._by_ino[ino] = inode
        inode.at = self._entries.add(ino, host_ino, dev, inode.kind, parent.ino, name)
        if references and ino == host_ino:
            inode.lookups = references
            self._entries.set_lookups(inode.at, references)
        return inode

    def _take_from_dead(self, ino: int) -> int:
        """Free a node id from before a restart whose number on the host is another object's now.

        Neither open nor pinned, it is of no use to anybody. Returns the references that the kernel
        may still have, and will give back under this number; 0 if the node id was not freed.
        """
        at = self._dormant[ino]
        node = self._entries.read(at)
        if node.fd != NO_FD or node.host_ino != ino or node.kind == stat.S_IFDIR:
            return 0
        del self._dormant[ino]
        self._entries.drop(at)
        parent = self._by_ino.get(node.parent)
        if isinstance(parent, Directory) and self._is_counted:
            parent.children -= 1
            self.drop_if_unused(parent)
        elif node.parent in self._dormant_children:
            self._dormant_children[node.parent] -= 1
        return node.lookups

    def _is_taken(self, ino: int) -> bool:
        return ino in self._by_ino or ino in self._dormant or ino == EXTRA

    def _own_ino(self) -> int:
        while self._is_taken(self._next_own_ino):
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
        self._rewrite(inode)
        if isinstance(inode, Directory):
            self.epoch += 1

    def _rewrite(self, inode: Inode) -> None:
        parent = inode.parent or self.root
        inode.at = self._entries.replace(inode.at, parent.ino, inode.name, inode.handle)

    def refer(self, inode: Inode) -> None:
        """Count one more reference of the kernel."""
        inode.lookups += 1
        self._entries.set_lookups(inode.at, inode.lookups)

    def remove(self, inode: Inode) -> None:
        """Note that no name leads to `inode` any more."""
        inode.removed = True
        self._entries.set_removed(inode.at)

    def pin(self, inode: Inode, fd: int) -> None:
        """Note the descriptor that pins `inode`, NO_FD before it is closed."""
        inode.fd = fd
        self._entries.set_pin(inode.at, fd)

    def set_handle(self, inode: Inode, handle: bytes) -> None:
        """Note the file handle of `inode`."""
        inode.handle = handle
        self._rewrite(inode)

    def _untangle(self, inode: Directory, parent: Directory) -> None:
        """Take out of `inode` what leads to `parent`, as `inode` is about to move below `parent`.

        On the host two directories may change places, and no request reports it. If each became
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
                self._rewrite(above)
                return
            above = above.parent

    def gone(self, inode: Inode) -> None:
        """Note that the host object no longer exists: what has its number now is another one."""
        on_device = self._by_host[inode.dev]
        if on_device.get(inode.host_ino) is inode:
            del on_device[inode.host_ino]
        self._entries.set_gone(inode.at)

    def dormant(self) -> list[int]:
        """Return the node ids that nobody has asked for since an earlier worker."""
        return list(self._dormant)

    def is_dormant(self, ino: int) -> bool:
        """Return whether an inode is known, and nobody has asked for it since an earlier worker."""
        return ino in self._dormant

    def disown(self, ino: int) -> None:
        """Note that the kernel does not know node id `ino` any more.

        It may have given back references that nobody has read of yet; these are not taken from an
        object that gets the number meanwhile.
        """
        try:
            inode = self[ino]
        except KeyError:
            return
        self._owed[ino] = inode.lookups
        inode.lookups = 0
        self._entries.set_lookups(inode.at, 0)
        self.drop_if_unused(inode)

    def forget_owed(self) -> None:
        """Note that no such references will come any more."""
        self._owed.clear()

    def forget(self, ino: int, lookups: int) -> None:
        """Give back references of the kernel. Never raises: the request has no reply."""
        if self._owed:
            owed = self._owed.pop(ino, 0)
            lookups = max(0, lookups - owed)
        inode = self._by_ino.get(ino)
        if inode is None and ino in self._dormant:
            inode = self._wake(ino)
        if inode is not None:
            inode.lookups -= lookups
            self._entries.set_lookups(inode.at, max(0, inode.lookups))
            self.drop_if_unused(inode)

    def drop_if_unused(self, inode: Inode) -> None:
        """Remove `inode`, and then its ancestors, as far as nothing refers to them any more."""
        while inode.lookups <= 0 and inode is not self.root and not inode.files:
            if isinstance(inode, Directory) and (inode.children or inode.opens):
                return
            if self._by_ino.pop(inode.ino, None) is None:
                return
            on_device = self._by_host[inode.dev]
            if on_device.get(inode.host_ino) is inode:
                del on_device[inode.host_ino]
            self._on_drop(inode)
            self._entries.drop(inode.at)
            if inode.parent is None:
                return
            inode.parent.children -= 1
            inode = inode.parent
