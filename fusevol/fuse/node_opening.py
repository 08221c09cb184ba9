"""Handlers of requests that open a node and give a handle: open, create, opendir."""

import os

from pyfuse3 import EntryAttributes, FileInfo, RequestContext

from fusevol.fuse import convert
from fusevol.fuse.convert import client, opener
from fusevol.fuse.replies import Replies
from fusevol.fuse.serving import Serving
from fusevol.record.record import AccessRecord
from fusevol.recovery.journal import Entry
from fusevol.volume import data, directories, lengths


class NodeOpening:
    """Handlers of one mount."""

    def __init__(self, serving: Serving, replies: Replies) -> None:
        self._volume = serving.volume
        self._subjects = serving.subjects
        self._caching = serving.caching
        self._callers = serving.callers
        self._replies = replies

    def open(
        self, record: AccessRecord, entry: Entry, inode: int, flags: int, ctx: RequestContext
    ) -> FileInfo:
        found = self._subjects.node(record, inode)
        record.ino = inode
        record.flags = convert.flag_names(flags)
        file, status = data.open(self._volume, found, flags, client(ctx), opener(record), entry)
        if flags & os.O_TRUNC:
            # The reply has no length: the kernel takes the file for empty, even if it has grown.
            lengths.emptied(self._volume, found)
        if self._callers.is_ring(ctx.pid, record.comm):
            self._volume.set_by_ring(file)
        return self._caching.opened(file, status)

    def create(
        self,
        record: AccessRecord,
        entry: Entry,
        parent_inode: int,
        name: bytes,
        mode: int,
        flags: int,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        parent = self._subjects.child(record, parent_inode, name)
        record.flags = convert.flag_names(flags)
        record.mode = convert.octal(mode & 0o7777)
        file, status = data.create(
            self._volume, parent, name, mode, flags, client(ctx), opener(record), entry
        )
        attributes = self._replies.entry(record, file.inode, status)
        if self._callers.is_ring(ctx.pid, record.comm):
            self._volume.set_by_ring(file)
        return self._caching.created(file), attributes

    def opendir(self, record: AccessRecord, entry: Entry, inode: int, ctx: RequestContext) -> int:
        directory = self._subjects.directory(record, inode)
        record.ino = inode
        return directories.opendir(
            self._volume, directory, opener(record), ctx.uid, ctx.gid, entry
        ).fh
