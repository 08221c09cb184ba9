"""The handlers pyfuse3 calls, one for each FUSE operation.

Each translates: node ids and handle numbers to inodes, results to pyfuse3's types, and arguments
into the access record, before the call, so that a failed operation shows what was asked for. What
an operation means is in `fusevol.volume`; timing, errors and the log are in `middleware`.
"""

import builtins
import errno
import logging
import operator
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileInfo,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

from fusevol.fuse import convert, message
from fusevol.fuse.caching import Caching
from fusevol.fuse.coalescing import Coalescer
from fusevol.fuse.convert import creator, opener
from fusevol.fuse.deadline import Deadline
from fusevol.fuse.message import STATFS, with_node_id
from fusevol.fuse.middleware import OPENING, by_caller, by_handle
from fusevol.fuse.recorder import finishers, recorded
from fusevol.fuse.requestloop import RequestLoop
from fusevol.fuse.rollback import rollbacks
from fusevol.inodes.objects import NO_SIZE, Inode, OpenDirectory, OpenFile
from fusevol.model import RecordLevel
from fusevol.names import encode_name
from fusevol.record.record import OPERATIONS, AccessRecord
from fusevol.record.times import rfc3339_ns
from fusevol.recording.caller import Callers
from fusevol.recording.record_filter import RecordFilter
from fusevol.recording.writer import LogWriter
from fusevol.recovery.counters import Counters
from fusevol.recovery.journal import DONE, Entry, Journal
from fusevol.volume import attributes, data, directories, lengths, namespace, xattrs
from fusevol.volume.volume import Volume

logger = logging.getLogger(__name__)

_SET_ID: Final = 0o6000


def _count_read(operations: "Operations", file: OpenFile, record: AccessRecord) -> None:
    if record.bytes_read:
        operations.volume.count_read(file, record.bytes_read)


def _count_written(operations: "Operations", file: OpenFile, record: AccessRecord) -> None:
    if record.bytes_written:
        operations.volume.count_written(file, record.bytes_written)


def _forget_file(operations: "Operations", file: OpenFile, _record: AccessRecord) -> None:
    if operations.deadline is None:
        operations.volume.remove_file(file)
    else:
        operations.deadline.later(operations.volume.remove_file, file)


def _forget_directory(
    operations: "Operations", directory: OpenDirectory, _record: AccessRecord
) -> None:
    if operations.deadline is None:
        operations.volume.remove_directory(directory)
    else:
        operations.deadline.later(operations.volume.remove_directory, directory)


class Operations(pyfuse3.Operations):
    """Serves one volume.

    Attributes:
        name: the volume's name in the log.
        volume: what is served.
        journal: what is being done.
        recorded: operations of which there may be a record.
        finish: what records and counts an operation, by its name.
        admit: refuses an operation while its record could not be written, or None.
        serially: runs a handler on a thread, one at a time, or None to run it in place.
        acl: the source has POSIX ACLs.
        flushes: each close(2) is asked for, not only the last one of an open file.
        deadline: gives up what takes too long, or None.
    """

    enable_acl = True

    def __init__(
        self,
        name: str,
        volume: Volume,
        journal: Journal,
        counters: Counters,
        level: RecordLevel,
        record_filter: RecordFilter,
        log: LogWriter | None,
        coalescer: Coalescer | None,
        callers: Callers,
        loop: RequestLoop,
        serially: Callable[..., Awaitable[Any]] | None,
        acl: bool,
        flushes: bool,
        deadline: Deadline | None = None,
    ) -> None:
        super().__init__()
        self.deadline = deadline
        self._offload: Callable[..., Awaitable[Any]] = loop.offload
        self._close: Callable[[Callable[[Any], None], Any], None] = operator.call
        self._readdir_reply: Callable[..., bool] = pyfuse3.readdir_reply
        if deadline is not None:
            serially = deadline.serially
            self._offload = deadline.offload
            self._close = deadline.close
            self._readdir_reply = deadline.readdir_reply
            deadline.rollback.update(rollbacks(volume))
        self.name = name
        self.volume = volume
        self.journal = journal
        self.callers = callers
        self.recorded = recorded(log, level, record_filter)
        self.finish = finishers(counters, log, level, record_filter, coalescer)
        for op in OPERATIONS:
            answer = builtins.getattr(type(self), op)
            is_needed = op in OPENING and (log is not None or op != "opendir")
            if op not in self.recorded and not is_needed:
                builtins.setattr(self, op, partial(answer.unrecorded, self))
        if not flushes:
            self.flush = _unwanted
        self.admit = None if log is None else log.admit
        self.serially = serially
        self.enable_acl = acl
        self._loop = loop
        self._reader = data.Reader()
        self.caching = Caching(level)

    # --- names and inodes ---

    @by_caller("lookup")
    def lookup(
        self, record: AccessRecord, parent_inode: int, name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        volume = self.volume
        parent = volume.directory(parent_inode)
        record.path = volume.paths.child(parent, name)
        return self._entry(record, *namespace.lookup(volume, parent, name))

    async def forget(self, inode_list: Any) -> None:
        if self.deadline is not None:
            self.deadline.later(self._forget, inode_list)
        elif self.serially is None:
            self._forget(inode_list)
        else:
            await self.serially(self._forget, inode_list)

    def _forget(self, inode_list: list[tuple[int, int]]) -> None:
        for ino, lookups in inode_list:
            try:
                self.volume.inodes.forget(ino, lookups)
            except Exception:
                logger.exception("forgetting inode %d failed; it stays known", ino)

    @by_caller("mknod", once=True)
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
        parent = self.volume.directory(parent_inode)
        record.path = self.volume.paths.child(parent, name)
        record.mode = convert.octal(mode)
        if rdev:
            record.rdev = f"{os.major(rdev)}:{os.minor(rdev)}"
        return self._entry(
            record,
            *namespace.mknod(self.volume, parent, name, mode, rdev, creator(ctx), entry),
        )

    @by_caller("mkdir", once=True)
    def mkdir(
        self,
        record: AccessRecord,
        entry: Entry,
        parent_inode: int,
        name: bytes,
        mode: int,
        ctx: RequestContext,
    ) -> EntryAttributes:
        parent = self.volume.directory(parent_inode)
        record.path = self.volume.paths.child(parent, name)
        record.mode = convert.octal(mode & 0o7777)
        return self._entry(
            record, *namespace.mkdir(self.volume, parent, name, mode, creator(ctx), entry)
        )

    @by_caller("symlink", once=True)
    def symlink(
        self,
        record: AccessRecord,
        entry: Entry,
        parent_inode: int,
        name: bytes,
        target: bytes,
        ctx: RequestContext,
    ) -> EntryAttributes:
        parent = self.volume.directory(parent_inode)
        record.path = self.volume.paths.child(parent, name)
        record.target = encode_name(target)
        return self._entry(
            record,
            *namespace.symlink(self.volume, parent, name, target, creator(ctx), entry),
        )

    @by_caller("link", once=True)
    def link(
        self,
        record: AccessRecord,
        entry: Entry,
        inode: int,
        new_parent_inode: int,
        new_name: bytes,
        ctx: RequestContext,
    ) -> EntryAttributes:
        linked = self.volume.inode(inode)
        new_parent = self.volume.directory(new_parent_inode)
        record.path = self.volume.paths.of(linked)
        record.to = self.volume.paths.child(new_parent, new_name)
        return self._entry(
            record, *namespace.link(self.volume, linked, new_parent, new_name, entry)
        )

    @by_caller("readlink")
    def readlink(self, record: AccessRecord, inode: int, ctx: RequestContext) -> bytes:
        link = self.volume.inode(inode)
        record.path = self.volume.paths.of(link)
        record.ino = inode
        target = namespace.readlink(self.volume, link)
        record.target = encode_name(target)
        return target

    @by_caller("unlink", once=True)
    def unlink(
        self,
        record: AccessRecord,
        entry: Entry,
        parent_inode: int,
        name: bytes,
        ctx: RequestContext,
    ) -> None:
        parent = self.volume.directory(parent_inode)
        record.path = self.volume.paths.child(parent, name)
        namespace.unlink(self.volume, parent, name, entry)

    @by_caller("rmdir", once=True)
    def rmdir(
        self,
        record: AccessRecord,
        entry: Entry,
        parent_inode: int,
        name: bytes,
        ctx: RequestContext,
    ) -> None:
        parent = self.volume.directory(parent_inode)
        record.path = self.volume.paths.child(parent, name)
        namespace.rmdir(self.volume, parent, name, entry)

    @by_caller("rename", once=True)
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
        parent = self.volume.directory(parent_inode_old)
        new_parent = self.volume.directory(parent_inode_new)
        record.path = self.volume.paths.child(parent, name_old)
        record.to = self.volume.paths.child(new_parent, name_new)
        if flags:
            record.flags = convert.rename_flags(flags)
        namespace.rename(self.volume, parent, name_old, new_parent, name_new, flags, entry)

    # --- attributes ---

    @by_caller("getattr")
    def getattr(self, record: AccessRecord, inode: int, ctx: RequestContext) -> EntryAttributes:
        found = self.volume.inode(inode)
        record.path = self.volume.paths.of(found)
        record.ino = inode
        status = attributes.getattr(self.volume, found)
        return self._attributes(found, self.volume.inodes.shown_ino(found), status)

    @by_caller("setattr")
    def setattr(
        self,
        record: AccessRecord,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        changed = self.volume.inode(inode)
        record.path = self.volume.paths.of(changed)
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
        file = None if fh is None else self.volume.files.get(fh)
        keeps = changes.size is not None and self._keeps_set_id(changed, ctx)
        status = attributes.setattr(self.volume, changed, changes, file, keeps)
        if changes.mode is not None and changes.mode & _SET_ID:
            self._set_id_appeared(changed)
        if changes.size is not None:
            lengths.truncated(self.volume, changed, status.st_size)
        return self._attributes(changed, self.volume.inodes.shown_ino(changed), status)

    @with_node_id(STATFS)
    @by_caller("statfs")
    def statfs(self, record: AccessRecord, inode: int, ctx: RequestContext) -> StatvfsData:
        found = self.volume.inode(inode)
        record.path = self.volume.paths.of(found)
        record.ino = inode
        return convert.statvfs(attributes.statfs(self.volume, found))

    @by_caller("getxattr")
    def getxattr(self, record: AccessRecord, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        found = self.volume.inode(inode)
        record.path = self.volume.paths.of(found)
        record.ino = inode
        record.name = encode_name(name)
        value = xattrs.getxattr(self.volume, found, name)
        record.size = len(value)
        return value

    @by_caller("setxattr")
    def setxattr(
        self, record: AccessRecord, inode: int, name: bytes, value: bytes, ctx: RequestContext
    ) -> None:
        found = self.volume.inode(inode)
        record.path = self.volume.paths.of(found)
        record.ino = inode
        record.name = encode_name(name)
        record.size = len(value)
        xattrs.setxattr(self.volume, found, name, value)

    @by_caller("listxattr")
    def listxattr(self, record: AccessRecord, inode: int, ctx: RequestContext) -> list[bytes]:
        found = self.volume.inode(inode)
        record.path = self.volume.paths.of(found)
        record.ino = inode
        names = xattrs.listxattr(self.volume, found)
        record.size = sum(len(name) + 1 for name in names)
        return names

    @by_caller("removexattr", once=True)
    def removexattr(
        self, record: AccessRecord, entry: Entry, inode: int, name: bytes, ctx: RequestContext
    ) -> None:
        found = self.volume.inode(inode)
        record.path = self.volume.paths.of(found)
        record.ino = inode
        record.name = encode_name(name)
        xattrs.removexattr(self.volume, found, name, entry)

    # --- open files ---

    @by_caller("open", once=True)
    def open(
        self, record: AccessRecord, entry: Entry, inode: int, flags: int, ctx: RequestContext
    ) -> FileInfo:
        found = self.volume.inode(inode)
        record.path = self.volume.paths.of(found)
        record.ino = inode
        record.flags = convert.flag_names(flags)
        keeps = bool(flags & os.O_TRUNC) and self._keeps_set_id(found, ctx)
        file, status = data.open(
            self.volume, found, flags, opener(record), ctx.uid, ctx.gid, keeps, entry
        )
        if flags & os.O_TRUNC:
            # The reply tells no length: the kernel takes it for empty, whatever was added since.
            lengths.emptied(self.volume, found)
        if status.st_mode & _SET_ID and flags & os.O_ACCMODE:
            self.volume.set_keeps_set_id(file, self._keeps_set_id(found, ctx))
        if self.callers.is_ring(ctx.pid, record.comm):
            self.volume.set_by_ring(file)
        return self.caching.opened(file, status)

    @by_caller("create", once=True)
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
        parent = self.volume.directory(parent_inode)
        record.path = self.volume.paths.child(parent, name)
        record.flags = convert.flag_names(flags)
        record.mode = convert.octal(mode & 0o7777)
        file, status = data.create(
            self.volume, parent, name, mode, flags, creator(ctx), opener(record), entry
        )
        record.ino = file.inode.ino
        self.volume.inodes.refer(file.inode)
        if mode & _SET_ID:
            self._set_id_appeared(file.inode)
        if self.callers.is_ring(ctx.pid, record.comm):
            self.volume.set_by_ring(file)
        return self.caching.created(file), self._attributes(file.inode, file.inode.ino, status)

    @by_handle("read", after=_count_read)
    async def read(
        self, record: AccessRecord, file: OpenFile, off: int, size: int
    ) -> bytes | memoryview:
        record.offset = off
        record.size = size
        content: bytes | memoryview
        try:
            content = self._reader.read(self.volume, file, off, size)
        except data.WouldWaitError:
            content = await self._offload(data.read_waiting, file, off, size)
        record.bytes_read = length = len(content)
        end = off + length
        if length < size and end < file.inode.size < NO_SIZE and not self.caching.is_direct(file):
            # For the kernel the file ends where a read into the page cache has ended.
            lengths.told(self.volume, file.inode, end)
        return content

    @by_handle("write", once=True, after=_count_written)
    async def write(
        self, record: AccessRecord, entry: Entry, file: OpenFile, off: int, buf: bytes
    ) -> int:
        record.offset = off
        record.size = len(buf)
        written: int
        appends = bool(file.flags & os.O_APPEND) and message.is_append(file, off, len(buf))
        if file.waits:
            written = await self._offload(data.write, file, off, buf, appends, entry)
        else:
            written = data.write(file, off, buf, appends, entry)
        record.bytes_written = written
        end = off + written
        if appends:
            lengths.appended(self.volume, file, off, end)
        elif end > file.inode.size or file.inode.other_sizes:
            lengths.written(self.volume, file.inode, end)
        return written

    @by_handle("flush")
    def flush(self, record: AccessRecord, file: OpenFile) -> None:
        data.flush(file)

    @by_handle("fsync")
    async def fsync(self, record: AccessRecord, file: OpenFile, datasync: bool) -> None:
        if datasync:
            record.flags = "DATASYNC"
        if self.volume.never_waits(file):
            data.fsync(file, datasync)
        else:
            await self._offload(data.fsync, file, datasync)

    @by_handle("release", once=True, after=_forget_file)
    def release(self, record: AccessRecord, entry: Entry, file: OpenFile) -> None:
        record.bytes_read = file.bytes_read
        record.bytes_written = file.bytes_written
        if file.flags & os.O_TRUNC:
            lengths.closed(self.volume, file)
        if entry.phase < DONE:
            self._close(data.release, file)
            entry.done()

    # --- open directories ---

    @by_caller("opendir", once=True)
    def opendir(self, record: AccessRecord, entry: Entry, inode: int, ctx: RequestContext) -> int:
        directory = self.volume.directory(inode)
        record.path = self.volume.paths.of(directory)
        record.ino = inode
        return directories.opendir(
            self.volume, directory, opener(record), ctx.uid, ctx.gid, entry
        ).fh

    @by_handle("readdir")
    def readdir(
        self, record: AccessRecord, directory: OpenDirectory, start_id: int, token: ReaddirToken
    ) -> list[int]:
        """Return the node ids that the kernel knows once more."""
        record.offset = start_id
        entries = 0
        known = []
        for name, after, inode, status in directories.readdir(self.volume, directory, start_id):
            ino = status.st_ino if inode is None else inode.ino
            entry = self.caching.attributes(inode, ino, status)
            if not self._readdir_reply(token, name, entry, after):
                if inode is not None:
                    self.volume.inodes.drop_if_unused(inode)
                break
            directories.accepted(directory, after)
            entries += 1
            if inode is not None:
                self.volume.inodes.refer(inode)
                self._told(inode, status.st_size)
                known.append(inode.ino)
        record.entries = entries
        return known

    @by_handle("fsyncdir")
    async def fsyncdir(
        self, record: AccessRecord, directory: OpenDirectory, datasync: bool
    ) -> None:
        if datasync:
            record.flags = "DATASYNC"
        if self.volume.never_waits(directory):
            directories.fsyncdir(directory, datasync)
        else:
            await self._offload(directories.fsyncdir, directory, datasync)

    @by_handle("releasedir", once=True, after=_forget_directory)
    def releasedir(self, record: AccessRecord, entry: Entry, directory: OpenDirectory) -> None:
        if entry.phase < DONE:
            self._close(directories.releasedir, directory)
            entry.done()

    def _entry(self, record: AccessRecord, inode: Any, status: os.stat_result) -> EntryAttributes:
        """Return the reply that makes the kernel know `inode` once more."""
        self.volume.inodes.refer(inode)
        record.ino = inode.ino
        return self._attributes(inode, inode.ino, status)

    def _attributes(self, inode: Inode, ino: int, status: os.stat_result) -> EntryAttributes:
        """Return a reply that shows `ino`: the node id, where the kernel takes it from there."""
        if inode.size != status.st_size:
            self._told(inode, status.st_size)
        return self.caching.attributes(inode, ino, status)

    def _told(self, inode: Inode, size: int) -> None:
        """Note that the kernel learns the length of `inode` by the reply, if it is not too late."""
        if self.deadline is None or not self.deadline.is_late():
            lengths.told(self.volume, inode, size)

    def _keeps_set_id(self, inode: Any, ctx: RequestContext) -> bool:
        """Tell whether the caller may change the data and leave set-ID bits: rare, so looked up."""
        if ctx.uid != 0 or not self.volume.privileged:
            return False
        status = attributes.getattr(self.volume, inode)
        return bool(status.st_mode & _SET_ID) and self.callers.may_keep_set_id(ctx.pid)

    def _set_id_appeared(self, inode: Inode) -> None:
        """See which open files may keep set-ID bits that the file did not have when they opened."""
        if not self.volume.privileged or inode.files is None:
            return
        for file in inode.files.values():
            if file.uid == 0 and file.writable:
                keeps = self.callers.may_keep_set_id(file.caller.pid)
                self.volume.set_keeps_set_id(file, keeps)


async def _unwanted(_fh: int) -> None:
    """Tell the kernel to send no more requests of a kind; it remembers that for the mount."""
    raise pyfuse3.FUSEError(errno.ENOSYS)
