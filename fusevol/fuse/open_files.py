"""Handlers of requests on an open file: read, write, flush, fsync, release."""

import os

from fusevol.fuse import message
from fusevol.fuse.serving import Serving
from fusevol.inodes.objects import NO_SIZE, OpenFile
from fusevol.record.record import AccessRecord
from fusevol.recovery.journal import Entry
from fusevol.volume import data, lengths


class OpenFiles:
    """Handlers of one mount, and what follows the record of some (`count_…`, `forget`)."""

    def __init__(self, serving: Serving) -> None:
        self._volume = serving.volume
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
        if file.waits:
            written = await self._executor.offload(data.write, file, off, buf, appends, entry)
        else:
            written = data.write(file, off, buf, appends, entry)
        record.bytes_written = written
        end = off + written
        if appends:
            lengths.appended(self._volume, file, off, end)
        elif end > file.inode.size or file.inode.other_sizes:
            lengths.written(self._volume, file.inode, end)
        return written

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
