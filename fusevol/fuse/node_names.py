"""Handlers of requests on names: lookup, and all that make, remove or move them; forget."""

import logging
import os

from pyfuse3 import EntryAttributes, RequestContext

from fusevol.fuse import convert
from fusevol.fuse.convert import client
from fusevol.fuse.executor import Forgotten
from fusevol.fuse.replies import Replies
from fusevol.fuse.serving import Serving
from fusevol.names import encode_name
from fusevol.record.record import AccessRecord
from fusevol.recovery.journal import Entry
from fusevol.volume import namespace

logger = logging.getLogger(__name__)


class NodeNames:
    """Handlers of one mount."""

    def __init__(self, serving: Serving, replies: Replies) -> None:
        self._volume = serving.volume
        self._subjects = serving.subjects
        self._entry = replies.entry

    def lookup(
        self, record: AccessRecord, parent_inode: int, name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        parent = self._subjects.child(record, parent_inode, name)
        return self._entry(record, *namespace.lookup(self._volume, parent, name))

    def forget(self, forgotten: Forgotten) -> None:
        for ino, lookups in forgotten:
            try:
                self._volume.inodes.forget(ino, lookups)
            except Exception:
                logger.exception("cannot forget inode %d; it stays in the table", ino)

    def mknod(
        self,
        record: AccessRecord,
        entry: Entry,
        parent_inode: int,
        name: bytes,
        mode: int,
        rdev: int,
        ctx: RequestContext,
    ) -> EntryAttributes:
        parent = self._subjects.child(record, parent_inode, name)
        record.mode = convert.octal(mode)
        if rdev:
            record.rdev = f"{os.major(rdev)}:{os.minor(rdev)}"
        made = namespace.mknod(self._volume, parent, name, mode, rdev, client(ctx), entry)
        return self._entry(record, *made)

    def mkdir(
        self,
        record: AccessRecord,
        entry: Entry,
        parent_inode: int,
        name: bytes,
        mode: int,
        ctx: RequestContext,
    ) -> EntryAttributes:
        parent = self._subjects.child(record, parent_inode, name)
        record.mode = convert.octal(mode & 0o7777)
        made = namespace.mkdir(self._volume, parent, name, mode, client(ctx), entry)
        return self._entry(record, *made)

    def symlink(
        self,
        record: AccessRecord,
        entry: Entry,
        parent_inode: int,
        name: bytes,
        target: bytes,
        ctx: RequestContext,
    ) -> EntryAttributes:
        parent = self._subjects.child(record, parent_inode, name)
        record.target = encode_name(target)
        made = namespace.symlink(self._volume, parent, name, target, client(ctx), entry)
        return self._entry(record, *made)

    def link(
        self,
        record: AccessRecord,
        entry: Entry,
        inode: int,
        new_parent_inode: int,
        new_name: bytes,
        ctx: RequestContext,
    ) -> EntryAttributes:
        linked = self._subjects.node(record, inode)
        new_parent = self._volume.directory(new_parent_inode)
        record.to = self._volume.paths.child(new_parent, new_name)
        made = namespace.link(self._volume, linked, new_parent, new_name, entry)
        return self._entry(record, *made)

    def readlink(self, record: AccessRecord, inode: int, ctx: RequestContext) -> bytes:
        link = self._subjects.node(record, inode)
        record.ino = inode
        target = namespace.readlink(self._volume, link)
        record.target = encode_name(target)
        return target

    def unlink(
        self,
        record: AccessRecord,
        entry: Entry,
        parent_inode: int,
        name: bytes,
        ctx: RequestContext,
    ) -> None:
        parent = self._subjects.child(record, parent_inode, name)
        namespace.unlink(self._volume, parent, name, entry)

    def rmdir(
        self,
        record: AccessRecord,
        entry: Entry,
        parent_inode: int,
        name: bytes,
        ctx: RequestContext,
    ) -> None:
        parent = self._subjects.child(record, parent_inode, name)
        namespace.rmdir(self._volume, parent, name, entry)

    def rename(
        self,
        record: AccessRecord,
        entry: Entry,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        parent = self._subjects.child(record, parent_inode_old, name_old)
        new_parent = self._volume.directory(parent_inode_new)
        record.to = self._volume.paths.child(new_parent, name_new)
        if flags:
            record.flags = convert.rename_flags(flags)
        namespace.rename(
            self._volume, parent, name_old, new_parent, name_new, flags, client(ctx), entry
        )
