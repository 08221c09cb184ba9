"""Handlers of requests on an open directory: readdir, fsyncdir, releasedir."""

from pyfuse3 import ReaddirToken

from fusevol.fuse.replies import Replies
from fusevol.fuse.serving import Serving
from fusevol.inodes.objects import OpenDirectory
from fusevol.record.record import AccessRecord
from fusevol.recovery.journal import Entry
from fusevol.volume import directories


class OpenDirectories:
    """Handlers of one mount, and what follows the record of the last one (`forget`)."""

    def __init__(self, serving: Serving, replies: Replies) -> None:
        self._volume = serving.volume
        self._executor = serving.executor
        self._attributes = serving.caching.attributes
        self._told = replies.told

    def readdir(
        self, record: AccessRecord, directory: OpenDirectory, start_id: int, token: ReaddirToken
    ) -> list[int]:
        """Return the node ids that the kernel knows once more."""
        record.offset = start_id
        entries = 0
        known = []
        add, inodes = self._executor.readdir_reply, self._volume.inodes
        for name, after, inode, status in directories.readdir(self._volume, directory, start_id):
            ino = status.st_ino if inode is None else inode.ino
            if not add(token, name, self._attributes(inode, ino, status), after):
                if inode is not None:
                    inodes.drop_if_unused(inode)
                break
            directories.accepted(directory, after)
            entries += 1
            if inode is not None:
                inodes.refer(inode)
                self._told(inode, status.st_size)
                known.append(inode.ino)
        record.entries = entries
        return known

    async def fsyncdir(
        self, record: AccessRecord, directory: OpenDirectory, datasync: bool
    ) -> None:
        if datasync:
            record.flags = "DATASYNC"
        if self._volume.never_waits(directory):
            directories.fsyncdir(directory, datasync)
        else:
            await self._executor.offload(directories.fsyncdir, directory, datasync)

    def releasedir(self, record: AccessRecord, entry: Entry, directory: OpenDirectory) -> None:
        if not entry.is_done:
            self._executor.close(directories.releasedir, directory)
            entry.done()

    def forget(self, directory: OpenDirectory, _record: AccessRecord) -> None:
        """Take out a directory that was released, once the record is in the log."""
        self._executor.later(self._volume.remove_directory, directory)
