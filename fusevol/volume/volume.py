"""A volume: the source and what is known of it. The modules beside this one act on it."""

import errno
import logging
import os
from typing import TYPE_CHECKING, Final

from fusevol.inodes.objects import (
    NO_SIZE,
    UNKNOWN_POSITION,
    Directory,
    Inode,
    OpenDirectory,
    Opened,
    OpenFile,
    OpenTable,
)
from fusevol.inodes.table import InodeTable
from fusevol.linux.files import descriptor_path
from fusevol.linux.filesystems import Storage, storage_of
from fusevol.linux.reserved_blocks import Reserve
from fusevol.model import Caller
from fusevol.recovery.counters import BYTES_READ, BYTES_WRITTEN, OPEN_DIRECTORIES, OPEN_FILES
from fusevol.recovery.nodes import NodeEntries
from fusevol.recovery.open_handles import (
    BY_RING,
    DIRECTORY,
    FILE,
    LOST,
    PLACE,
    READ,
    SET_ID,
    SIZE,
    WRITTEN,
    OpenEntries,
    OpenEntry,
)
from fusevol.recovery.region import NEXT_DIRECTORY, NEXT_FILE, Region
from fusevol.volume.acting import Acting
from fusevol.volume.descriptors import Descriptors
from fusevol.volume.paths import Paths
from fusevol.volume.places import Places

if TYPE_CHECKING:
    from collections.abc import Callable

_KEPT_FLAGS: Final = os.O_ACCMODE | os.O_APPEND | os.O_SYNC | os.O_DSYNC | os.O_NOATIME
"""Flags of open(2) that still mean something when a file is opened once more."""

_FEWEST_PINS: Final = 16
"""Pins that are kept however much clients hold open; a request takes three."""

logger = logging.getLogger(__name__)


class Volume:
    """The state of one served volume.

    Attributes:
        inodes, descriptors, paths, files, directories, acting: see their classes.
        privileged: whether this process may act for other users; else all is done as itself.
        storage: what kind of file system the source is on.
    """

    def __init__(
        self,
        root_fd: int,
        privileged: bool,
        pin_limit: int,
        room: int,
        region: Region,
        *,
        may_hang: bool = False,
        places: dict[int, int] | None = None,
    ) -> None:
        """Serve what `root_fd`, an O_PATH descriptor which the volume owns, refers to.

        Args:
            region: the recovery state; what an earlier worker left there is gone on with.
            root_fd: a directory, or a single file.
            privileged: this process may act for other users, which takes CAP_SETUID, CAP_SETGID,
                CAP_CHOWN, CAP_FSETID and CAP_DAC_READ_SEARCH.
            pin_limit: how many host objects to keep open besides what clients hold open.
            room: how many descriptors pins and clients may hold.
            may_hang: every call on the source may wait, as if it were on another machine.
            places: numbers of mounts in the source and descriptors of their roots, which the volume
                owns; None if an earlier worker has opened the source.
        """
        self.root_fd = root_fd
        self._words = region.words
        self._pin_limit = max(_FEWEST_PINS, pin_limit)
        self._room = room
        self._opens = OpenEntries(region)
        inherited = self._opens.load()
        self.inodes = InodeTable(os.fstat(root_fd), NodeEntries(region), self._dropped, self._woken)
        self.descriptors = Descriptors(
            self.inodes, root_fd, self._most_pins, privileged, self._opens, inherited
        )
        self._places = self._open_places(inherited, places)
        self.seen: Callable[[Directory, bytes, os.stat_result], Inode] = self.inodes.seen
        """As `InodeTable.seen`, wherever in the source the object is."""
        if self._places is not None:
            self.seen = self._seen
        self.paths = Paths(self.inodes)
        self.files: OpenTable[OpenFile] = OpenTable(self._words[NEXT_FILE] + 1)
        self.directories: OpenTable[OpenDirectory] = OpenTable(self._words[NEXT_DIRECTORY] + 1)
        self.privileged = privileged
        self.acting = Acting(privileged)
        self._may_hang = may_hang
        self.storage = self._storage_of(root_fd)
        self._reserves: dict[int, Reserve] = {}
        self._storages: dict[int, Storage] = {self.inodes.root.dev: self.storage}
        for kept in inherited:
            try:
                self._put_back(kept)
            except (KeyError, OSError):
                # One that cannot be gone on with must not keep all others from being served.
                logger.exception("cannot resume open handle %d", kept.fh)
                self._opens.drop(kept.at)
                if kept.fd != LOST:
                    os.close(kept.fd)
        self._words[OPEN_FILES] = len(self.files)
        self._words[OPEN_DIRECTORIES] = len(self.directories)

    def _dropped(self, inode: Inode) -> None:
        self.descriptors.release(inode)

    def _woken(self, inode: Inode) -> None:
        self.descriptors.woken(inode)

    def _open_places(
        self, inherited: list[OpenEntry], roots: dict[int, int] | None
    ) -> Places | None:
        if roots is None:
            roots = {kept.fh: kept.fd for kept in inherited if kept.kind == PLACE}
        else:
            for number, fd in roots.items():
                self._opens.add(PLACE, number, 0, fd)
        return Places(roots) if roots else None

    def _seen(self, parent: Directory, name: bytes, status: os.stat_result) -> Inode:
        assert self._places is not None
        dir_fd = self.descriptors.pin(parent)
        dev = self._places.dev(parent, dir_fd, name, status)
        return self.inodes.seen(parent, name, status, dev)

    def find(
        self, parent: Directory, dir_fd: int, name: bytes, status: os.stat_result
    ) -> Inode | None:
        """Return the known inode of what `name` in `parent` is, or None.

        Args:
            dir_fd: a descriptor of `parent`.
            status: of what was found.
        """
        if self._places is None:
            return self.inodes.find(status)
        return self.inodes.find(status, self._places.dev(parent, dir_fd, name, status))

    def _put_back(self, kept: OpenEntry) -> None:
        """Take up what a client has held open since an earlier worker."""
        caller = Caller(kept.pid, kept.comm, kept.container, kept.error)
        if kept.fd == LOST:
            self._open_anew(kept)
        if kept.kind == FILE:
            inode = self.inodes[kept.ino]
            file = OpenFile(inode, kept.fd, kept.flags, caller, kept.uid, kept.gid)
            file.fh, file.at = kept.fh, kept.at
            file.has_set_id = bool(kept.marks & SET_ID)
            file.by_ring = bool(kept.marks & BY_RING)
            file.bytes_read, file.bytes_written = kept.bytes_read, kept.bytes_written
            inode.size = kept.size
            self._enter(file)
            self.files.put_back(file)
        elif kept.kind == DIRECTORY:
            directory = OpenDirectory(self.directory(kept.ino), kept.fd, caller, kept.uid, kept.gid)
            directory.fh, directory.at = kept.fh, kept.at
            directory.position = UNKNOWN_POSITION
            directory.inode.opens += 1
            self.directories.put_back(directory)

    def _open_anew(self, kept: OpenEntry) -> None:
        """Open once more what was open before all processes died."""
        path = descriptor_path(self.descriptors.pin(self.inodes[kept.ino]))
        flags = os.O_RDONLY | os.O_DIRECTORY if kept.kind == DIRECTORY else kept.flags & _KEPT_FLAGS
        kept.fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
        self._opens.set_descriptor(kept.at, kept.fd)

    def _enter(self, file: OpenFile) -> None:
        inode = file.inode
        storage = self.storage_at(inode, file.fd)
        if self.privileged and file.uid and file.writable:
            file.reserve = self._reserve_at(inode, storage)
        file.waits = storage is Storage.REMOTE or (
            storage is Storage.LOCAL and bool(file.flags & os.O_DSYNC)
        )
        if inode.files is None:
            inode.files = {}
        inode.files[file.fh] = file

    def add_file(self, file: OpenFile) -> None:
        """Enter an open file."""
        fh = self.files.add(file)
        self._words[NEXT_FILE] = fh
        self._words[OPEN_FILES] = len(self.files)
        caller = file.caller
        inode = file.inode
        file.at = self._opens.add(
            FILE, fh, inode.ino, file.fd, file.flags, file.uid, file.gid, caller.pid,
            NO_SIZE if inode.other_sizes else inode.size,
            caller.comm, caller.container, caller.error,
        )  # fmt: skip
        self._enter(file)

    def remove_file(self, file: OpenFile) -> None:
        """Take an open file out; its descriptor is closed."""
        self.files.remove(file.fh)
        self._words[OPEN_FILES] = len(self.files)
        self._opens.drop(file.at)
        inode = file.inode
        if inode.files is not None:
            inode.files.pop(file.fh, None)
            if not inode.files:
                inode.files = None
        self.inodes.drop_if_unused(inode)

    def add_directory(self, directory: OpenDirectory) -> None:
        """Enter an open directory; it stays known until it is taken out."""
        # The kernel may give back its last reference before it says that the directory is closed.
        directory.inode.opens += 1
        fh = self.directories.add(directory)
        self._words[NEXT_DIRECTORY] = fh
        self._words[OPEN_DIRECTORIES] = len(self.directories)
        caller = directory.caller
        directory.at = self._opens.add(
            DIRECTORY, fh, directory.inode.ino, directory.fd, 0, directory.uid, directory.gid,
            caller.pid, 0, caller.comm, caller.container, caller.error,
        )  # fmt: skip

    def remove_directory(self, directory: OpenDirectory) -> None:
        """Take an open directory out; its descriptor is closed."""
        self.directories.remove(directory.fh)
        self._words[OPEN_DIRECTORIES] = len(self.directories)
        self._opens.drop(directory.at)
        directory.inode.opens -= 1
        self.inodes.drop_if_unused(directory.inode)

    def note_set_id(self, file: OpenFile) -> None:
        """Note that `file`, which is open to write, has set-ID bits; they may go again."""
        if self.privileged:
            file.has_set_id = True
            self._store_marks(file)

    def set_id_bits_appeared(self, inode: Inode) -> None:
        """Note that `inode` has got set-ID bits, perhaps while it was open."""
        for file in (inode.files or {}).values():
            if file.writable:
                self.note_set_id(file)

    def set_by_ring(self, file: OpenFile) -> None:
        """Note that a thread of io_uring has opened `file`."""
        file.by_ring = True
        self._store_marks(file)

    def _store_marks(self, file: OpenFile) -> None:
        marks = SET_ID * file.has_set_id | BY_RING * file.by_ring
        self._opens.set_marks(file.at, marks)

    def count_read(self, file: OpenFile, count: int) -> None:
        """Add to the bytes that were read through `file`."""
        file.bytes_read = self._words[file.at + READ] = file.bytes_read + count
        self._words[BYTES_READ] += count

    def count_written(self, file: OpenFile, count: int) -> None:
        """Add to the bytes that were written through `file`."""
        file.bytes_written = self._words[file.at + WRITTEN] = file.bytes_written + count
        self._words[BYTES_WRITTEN] += count

    def count_inherited(self) -> None:
        """Count what an earlier worker left; until then more is kept than need be."""
        self.inodes.count_children()
        self.descriptors.count_asleep()

    def set_sizes(self, inode: Inode, size: int, others: tuple[int, ...] = ()) -> None:
        """Note the length of `inode` as the kernel knows it, and what it may be instead."""
        inode.size, inode.other_sizes = size, others
        if inode.files is not None:
            known = NO_SIZE if others else size
            for file in inode.files.values():
                self._words[file.at + SIZE] = known

    def directory(self, ino: int) -> Directory:
        """Return the known directory with node id `ino`.

        Raises:
            OSError: ESTALE if it is not known, ENOTDIR if it is not a directory.
        """
        inode = self.inode(ino)
        if isinstance(inode, Directory):
            return inode
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))

    def inode(self, ino: int) -> Inode:
        """Return the known inode with node id `ino`; OSError ESTALE if it is not known."""
        try:
            return self.inodes[ino]
        except KeyError:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None

    def storage_at(self, inode: Inode, fd: int) -> Storage:
        """Return the kind of storage `inode`, open at `fd`, is on."""
        storage = self._storages.get(inode.dev)
        if storage is None:
            storage = self._storages[inode.dev] = self._storage_of(fd)
        return storage

    def _storage_of(self, fd: int) -> Storage:
        return Storage.REMOTE if self._may_hang else storage_of(fd)

    def _reserve_at(self, inode: Inode, storage: Storage) -> Reserve | None:
        if storage is Storage.MEMORY or (storage is Storage.REMOTE and not self._may_hang):
            return None
        reserve = self._reserves.get(inode.dev)
        if reserve is None:
            reserve = self._reserves[inode.dev] = Reserve()
        return reserve

    def never_waits(self, opened: Opened) -> bool:
        """Return whether no call on `opened` waits for a device."""
        return self.storage_at(opened.inode, opened.fd) is Storage.MEMORY

    def make_room(self) -> None:
        """Make sure that a client may hold one more descriptor; before any pin of the request.

        What clients and pins may hold ends where the descriptors begin that closing, removing and
        looking callers up take for a moment.

        Raises:
            OSError: ENFILE if clients hold all that they may.
        """
        if self._held() < self._room:
            return
        self.descriptors.make_room(self._room - self._open_count() - 1)
        if self._held() >= self._room:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    @property
    def has_room(self) -> bool:
        """Whether one more object may stay pinned that nothing else leads to."""
        return self._held() < self._room + _FEWEST_PINS

    def _held(self) -> int:
        return self._open_count() + len(self.descriptors)

    def _open_count(self) -> int:
        words = self._words
        return words[OPEN_FILES] + words[OPEN_DIRECTORIES]

    def _most_pins(self) -> int:
        left = self._room - self._open_count()
        return self._pin_limit if left >= self._pin_limit else max(_FEWEST_PINS, left)
