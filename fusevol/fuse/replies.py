"""Replies that show attributes; what the kernel learns by them is noted."""

import os

from pyfuse3 import EntryAttributes

from fusevol.fuse.serving import Serving
from fusevol.inodes.objects import Inode
from fusevol.record.record import AccessRecord
from fusevol.volume import lengths


class Replies:
    """Makes the replies of one mount."""

    def __init__(self, serving: Serving) -> None:
        self._volume = serving.volume
        self._refer = serving.volume.inodes.refer
        self._attributes = serving.caching.attributes
        self._is_late = serving.executor.is_late

    def entry(self, record: AccessRecord, inode: Inode, status: os.stat_result) -> EntryAttributes:
        """Return the reply that makes the kernel know `inode` once more."""
        self._refer(inode)
        ino = record.ino = inode.ino
        return self.attributes(inode, ino, status)

    def attributes(self, inode: Inode, ino: int, status: os.stat_result) -> EntryAttributes:
        """Return a reply that shows `ino`: the node id, where the kernel takes it from there."""
        if inode.size != status.st_size:
            self.told(inode, status.st_size)
        return self._attributes(inode, ino, status)

    def told(self, inode: Inode, size: int) -> None:
        """Note that the kernel learns the length of `inode` by the reply, if it is not too late."""
        if not self._is_late():
            lengths.told(self._volume, inode, size)
