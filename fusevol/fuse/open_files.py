"""Handlers of requests on an open file: read, write, flush, fsync, release."""

import os
from contextlib import AbstractContextManager
from time import monotonic_ns

from fusevol.fuse import message
from fusevol.fuse.serving import Serving
from fusevol.inodes.objects import NO_SIZE, OpenFile
from fusevol.record.record import AccessRecord
from fusevol.recovery.journal import Entry
from fusevol.volume import data, lengths
from fusevol.volume.acting import (
    CHANGE_CONTENT,
    CHANGE_CONTENT_MAPPED,
    LIMITS,
    NEAR_RESERVE,
    SET_ID,
    Client,
)


class OpenFiles:
    """Handlers of one mount, and what follows the record of some (`count_…`, `forget`)."""

    def __init__(self, serving: Serving) -> None:
        self._volume = serving.volume
        self._acting = serving.volume.acting
        self._executor = serving.executor
        self._caching = serving.caching
        self._reader = data.Reader()

    async def read(
        self, record: AccessRecord, file: OpenFile, off: int, size: int
    ) -> bytes | memoryview:
        record.offset = off
        record.size = size
        content: bytes | memoryview
        try:
            content = self._reader.read(self._volume, file, off, size)
        except data.WouldWaitError:
            content = await self._executor.offload(data.read_waiting, file, off, size)
        record.bytes_read = length = len(content)
        end = off + length
        if length < size and end < file.inode.size < NO_SIZE and not self._caching.is_direct(file):
            # For the kernel the file ends where a read into the page cache has ended.
            lengths.told(self._volume, file.inode, end)
        return content

    def count_read(self, file: OpenFile, record: AccessRecord) -> None:
        """Add to the bytes that were read, once the record is in the log."""
        if record.bytes_read:
            self._volume.count_read(file, record.bytes_read)

    async def write(
        self, record: AccessRecord, entry: Entry, file: OpenFile, off: int, buf: bytes
    ) -> int:
        record.offset = off
        record.size = len(buf)
        written: int
        appends = bool(file.flags & os.O_APPEND) and message.is_append(file, off, len(buf))
        context = None
        reserve = file.reserve
        if file.has_set_id or (reserve is not None and monotonic_ns() > reserve.far_until_ns):
            context = self._as_writer(file, off, len(buf))
        try:
            if file.waits:
                written = await self._executor.offload(
                    data.write, file, off, buf, appends, entry, context
                )
            else:
                written = data.write(file, off, buf, appends, entry, context)
        except OSError as error:
            context = self._exempted(error, file, off, len(buf))
            if context is None:
                raise
            written = await self._executor.offload(
                data.write, file, off, buf, appends, entry, context
            )
        record.bytes_written = written
        end = off + written
        if appends:
            lengths.appended(self._volume, file, off, end)
        elif end > file.inode.size or file.inode.other_sizes:
            lengths.written(self._volume, file.inode, end)
        return written

    def _as_writer(
        self, file: OpenFile, off: int, length: int
    ) -> AbstractContextManager[None] | None:
        """Return the context of a write where it depends on the client, as it rarely does."""
        if file.has_set_id:
            status = os.fstat(file.fd)
            if status.st_mode & SET_ID:
                writer = message.writer(file, off, length)
                row = CHANGE_CONTENT_MAPPED if writer.is_mapped else CHANGE_CONTENT
                return self._acting.as_client(row, writer.client, status)
        if file.reserve is not None and file.reserve.is_near(file.fd):
            return self._acting.as_client(NEAR_RESERVE, Client(file.uid, file.gid))
        return None

    def _exempted(
        self, error: OSError, file: OpenFile, off: int, length: int
    ) -> AbstractContextManager[None] | None:
        """Return the context in which to repeat a write that met a limit; None if it binds all."""
        if error.errno not in LIMITS:
            return None
        return self._acting.beyond_limit(error, message.writer(file, off, length).client)

    def count_written(self, file: OpenFile, record: AccessRecord) -> None:
        """Add to the bytes that were written, once the record is in the log."""
        if record.bytes_written:
            self._volume.count_written(file, record.bytes_written)

    def flush(self, record: AccessRecord, file: OpenFile) -> None:
        data.flush(file)

    async def fsync(self, record: AccessRecord, file: OpenFile, datasync: bool) -> None:
        if datasync:
            record.flags = "DATASYNC"
        if self._volume.never_waits(file):
            data.fsync(file, datasync)
        else:
            await self._executor.offload(data.fsync, file, datasync)

    def release(self, record: AccessRecord, entry: Entry, file: OpenFile) -> None:
        record.bytes_read = file.bytes_read
        record.bytes_written = file.bytes_written
        if file.flags & os.O_TRUNC:
            lengths.closed(self._volume, file)
        if not entry.is_done:
            self._executor.close(data.release, file)
            entry.done()

    def forget(self, file: OpenFile, _record: AccessRecord) -> None:
        """Take out a file that was released, once the record is in the log."""
        self._executor.later(self._volume.remove_file, file)
