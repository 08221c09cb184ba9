"""A volume: the source and what is known of it. The modules beside this one act on it."""

import errno
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fusevol.inodes.inode import Directory, Inode
from fusevol.inodes.opened import OpenDirectory, Opened, OpenFile, OpenTable
from fusevol.inodes.table import InodeTable
from fusevol.linux.credentials import filesystem_identity, keeping_set_id_bits
from fusevol.linux.filesystems import Storage, storage_of
from fusevol.volume.descriptors import Descriptors
from fusevol.volume.paths import Paths

P = ParamSpec("P")
T = TypeVar("T")


class Volume:
    """The state of one served volume.

    Attributes:
        inodes, descriptors, paths, files, directories: see their classes.
        privileged: whether this process may act for other users; else all is done as itself.
        storage: what kind of file system the source is on.
    """

    def __init__(self, root_fd: int, privileged: bool, pin_limit: int) -> None:
        """Serve what `root_fd`, an O_PATH descriptor which the volume owns, refers to.

        Args:
            root_fd: a directory, or a single file.
            privileged: new objects are made for the caller, which takes CAP_SETUID, CAP_SETGID,
                CAP_CHOWN, CAP_FSETID and CAP_DAC_READ_SEARCH.
            pin_limit: how many host objects to keep open besides what clients hold open.
        """
        self.root_fd = root_fd
        self.inodes = InodeTable(os.fstat(root_fd), self._dropped)
        self.descriptors = Descriptors(
            self.inodes.root, root_fd, pin_limit, privileged, self.inodes.gone
        )
        self.paths = Paths(self.inodes)
        self.files: OpenTable[OpenFile] = OpenTable()
        self.directories: OpenTable[OpenDirectory] = OpenTable()
        self.privileged = privileged
        self.storage = storage_of(root_fd)
        self._storages: dict[int, Storage] = {self.inodes.root.dev: self.storage}
        self._umask = os.umask(0)
        os.umask(self._umask)

    def _dropped(self, inode: Inode) -> None:
        self.descriptors.release(inode)

    def directory(self, ino: int) -> Directory:
        """Return the known directory with node id `ino`.

        Raises:
            OSError: ESTALE if it is not known, ENOTDIR if it is no directory.
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
            storage = self._storages[inode.dev] = storage_of(fd)
        return storage

    def never_waits(self, opened: Opened) -> bool:
        """Tell whether no call on `opened` waits for a device."""
        return self.storage_at(opened.inode, opened.fd) is Storage.MEMORY

    def with_descriptors(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that opens a descriptor; if there are none left, make room once."""
        try:
            return call(*args, **kwargs)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not len(self.descriptors):
                raise
        # Twice: the first round may only take away the second chance of pins used lately.
        self.descriptors.give_up(len(self.descriptors) // 2)
        self.descriptors.give_up(len(self.descriptors) // 2)
        return call(*args, **kwargs)

    def create_as(
        self, creator: "Creator", mode: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Make the one system call that creates an object, so that it belongs to `creator`.

        The host applies the creator's umask or the parent's default ACL, whichever counts
        (umask(2), acl(5)).
        """
        if creator.umask != self._umask:
            os.umask(creator.umask)
            self._umask = creator.umask
        if not self.privileged:
            return call(*args, **kwargs)
        if mode & 0o2000:
            # The kernel has taken the bit away already if the caller may not set it.
            with keeping_set_id_bits(), filesystem_identity(creator.uid, creator.gid):
                return call(*args, **kwargs)
        if creator.uid == 0 and creator.gid == 0:
            return call(*args, **kwargs)
        with filesystem_identity(creator.uid, creator.gid):
            return call(*args, **kwargs)


class Creator:
    """Who makes a new object: `uid`, `gid` and `umask` of the calling thread."""

    __slots__ = ("gid", "uid", "umask")

    def __init__(self, uid: int, gid: int, umask: int) -> None:
        self.uid = uid
        self.gid = gid
        self.umask = umask
