"""Handlers of requests on attributes of a node: getattr, setattr, statfs, extended attributes."""

from pyfuse3 import EntryAttributes, RequestContext, SetattrFields, StatvfsData

from fusevol.fuse import convert
from fusevol.fuse.convert import client
from fusevol.fuse.replies import Replies
from fusevol.fuse.serving import Serving
from fusevol.names import encode_name
from fusevol.record.record import AccessRecord
from fusevol.record.times import rfc3339_ns
from fusevol.recovery.journal import Entry
from fusevol.volume import attributes, lengths, xattrs


class NodeAttributes:
    """Handlers of one mount."""

    def __init__(self, serving: Serving, replies: Replies) -> None:
        self._volume = serving.volume
        self._subjects = serving.subjects
        self._replies = replies
        self._shown_ino = serving.volume.inodes.shown_ino

    def getattr(self, record: AccessRecord, inode: int, ctx: RequestContext) -> EntryAttributes:
        found = self._subjects.node(record, inode)
        record.ino = inode
        status = attributes.getattr(self._volume, found)
        return self._replies.attributes(found, self._shown_ino(found), status)

    def setattr(
        self,
        record: AccessRecord,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        changed = self._subjects.node(record, inode)
        record.ino = inode
        changes = convert.changes(attr, fields)
        if changes.mode is not None:
            record.mode = convert.octal(changes.mode & 0o7777)
        record.owner = changes.uid
        record.group = changes.gid
        record.size = changes.size
        if changes.atime_ns is not None:
            record.atime = rfc3339_ns(changes.atime_ns)
        if changes.mtime_ns is not None:
            record.mtime = rfc3339_ns(changes.mtime_ns)
        file = None if fh is None else self._volume.files.get(fh)
        status = attributes.setattr(self._volume, changed, changes, file, client(ctx))
        if changes.size is not None:
            lengths.truncated(self._volume, changed, status.st_size)
        return self._replies.attributes(changed, self._shown_ino(changed), status)

    def statfs(self, record: AccessRecord, inode: int, ctx: RequestContext) -> StatvfsData:
        found = self._subjects.node(record, inode)
        record.ino = inode
        return convert.statvfs(attributes.statfs(self._volume, found))

    def getxattr(self, record: AccessRecord, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        found = self._subjects.node(record, inode)
        record.ino = inode
        record.name = encode_name(name)
        value = xattrs.getxattr(self._volume, found, name)
        record.size = len(value)
        return value

    def setxattr(
        self, record: AccessRecord, inode: int, name: bytes, value: bytes, ctx: RequestContext
    ) -> None:
        found = self._subjects.node(record, inode)
        record.ino = inode
        record.name = encode_name(name)
        record.size = len(value)
        xattrs.setxattr(self._volume, found, name, value, client(ctx))

    def listxattr(self, record: AccessRecord, inode: int, ctx: RequestContext) -> list[bytes]:
        found = self._subjects.node(record, inode)
        record.ino = inode
        names = xattrs.listxattr(self._volume, found, client(ctx))
        record.size = sum(len(name) + 1 for name in names)
        return names

    def removexattr(
        self, record: AccessRecord, entry: Entry, inode: int, name: bytes, ctx: RequestContext
    ) -> None:
        found = self._subjects.node(record, inode)
        record.ino = inode
        record.name = encode_name(name)
        xattrs.removexattr(self._volume, found, name, client(ctx), entry)
