"""The records of an access log while it grows, across rotation: what `tail -F` does for lines."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Final

from fusevol.errors import FusevolError, NotFoundError
from fusevol.logs.lines import MAX_LINE_BYTES, LogFile, is_file
from fusevol.logs.log_files import rotated
from fusevol.logs.reader import Predicate, Skipped, first_record, is_blank, last_in, parse, read
from fusevol.record.record import AccessRecord, MalformedRecordError

_ANCHOR_BYTES: Final = 4096
_SHORTEST_WAIT_S: Final = 0.01
_LONGEST_WAIT_S: Final = 0.2


def follow(
    path: str, count: int | None, keep: Predicate, skipped: Skipped
) -> Iterator[tuple[bytes, AccessRecord]]:
    """Yield the last `count` records that `keep` accepts, then others as they are written.

    Ends only where a pipe ends; all records of a pipe count as new ones.

    A log that is renamed and replaced (logrotate) is read to its end first. So are logs that came
    and went since, as long as they lie in the same directory, are called as rotated files are, and
    are not compressed.
    A log that is truncated (`copytruncate`) is read again from its beginning. What was written
    to it since the last look, 0.2 s before at most, is then found in the copy only.

    Args:
        path: the log; "-" is standard input.
        count: None for all that the log holds.
        keep: the records that are wanted.
        skipped: gets the lines that are not records.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: the log cannot be read.
    """
    if not is_file(path):
        yield from ((line, record) for _number, line, record in read(path, skipped) if keep(record))
        return
    with GrowingLog(path, skipped) as log:
        if count is not None:
            yield from log.skip_to_end(count, keep)
        wait_s = _SHORTEST_WAIT_S
        while True:
            # Asked before reading: once a new file has a record, the old one gets no more.
            at_path = log.at_path()
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            for line, record in log.appended():
                wait_s = _SHORTEST_WAIT_S
                if keep(record):
                    yield line, record
            successor = log.successor(at_path)
            if successor is None:
                time.sleep(wait_s)
            else:
                yield from (entry for entry in log.appended(is_complete=True) if keep(entry[1]))
                log.go_on_with(successor)


class GrowingLog(contextlib.ExitStack):
    """A log that is being written, and how far it has been read."""

    def __init__(self, path: str, skipped: Skipped) -> None:
        super().__init__()
        self._path = path
        self._skipped = skipped
        self._newest: AccessRecord | None = None
        self._file = self.enter_context(LogFile(path))
        self._rewind()

    def _rewind(self) -> None:
        self._offset = 0
        """How far the file has been read: to the end of a line, as a rule."""
        self._anchor = b""
        """What stands before the offset; it is gone if the file was truncated and written again."""
        self._is_inside = False
        """Whether the offset is inside a line, one that is too long to be a record."""

    def skip_to_end(self, count: int, keep: Predicate) -> list[tuple[bytes, AccessRecord]]:
        """Go to the end of the last whole line; return the last `count` records before it."""
        lines = self._file.lines_backwards()
        self._offset, _unfinished = next(lines)
        start = max(0, self._offset - _ANCHOR_BYTES)
        self._anchor = self._file.read_at(start, self._offset - start)
        self._newest = first_record(line for _offset, line in self._file.lines_backwards())
        return last_in(self._file, lines, count, keep, self._skipped)

    def skip_to(self, seq: int) -> bool:
        """Go to some record not behind the first one after number `seq`, but near it.

        The lines are looked at in halves, as numbers grow from line to line. Returns False, and
        stays at the beginning, if the file ends with a smaller number: it is of another log then.
        """
        newest = first_record(line for _offset, line in self._file.lines_backwards())
        if newest is None:
            return True
        if newest.seq < seq:
            return False
        low, high = 0, self._file.stat().st_size
        while high - low > _ANCHOR_BYTES:
            middle = (low + high) // 2
            start, record = self._record_after(middle)
            if record is not None and start < high and record.seq <= seq:
                low = start
            else:
                high = middle
        self._offset = low
        return True

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been written to the file."""
        return self._file.stat().st_size == 0

    def _record_after(self, offset: int) -> tuple[int, AccessRecord | None]:
        """Return the first whole record that begins behind `offset`, and where it begins."""
        block = self._file.read_at(offset, 2 * MAX_LINE_BYTES)
        at = block.find(b"\n") + 1
        while at and (end := block.find(b"\n", at)) >= 0:
            with contextlib.suppress(MalformedRecordError):
                return offset + at, parse(block[at:end])
            at = end + 1
        return offset, None

    def appended(self, *, is_complete: bool = False) -> Iterator[tuple[bytes, AccessRecord]]:
        """Yield the records since the last call.

        The last line waits for its newline, unless the file is complete.
        """
        while (lines := self._next_lines(is_complete)) is not None:
            for index, line in enumerate(lines):
                try:
                    record = parse(line)
                except MalformedRecordError as error:
                    if not is_blank(line):
                        self._skip(len(lines) - index, str(error))
                else:
                    self._newest = record
                    yield line, record

    def at_path(self) -> os.stat_result | None:
        """Return which file the path leads to now, if any."""
        try:
            return os.stat(self._path)
        except OSError:
            return None

    def successor(self, at_path: os.stat_result | None) -> LogFile | None:
        """Return the file that has the next record, or None as long as this one may get it.

        While the file at the path is empty, the writer may still hold this one: logrotate makes
        the new file before it signals the writer.
        """
        if at_path and os.path.samestat(at_path, self._file.stat()):
            return None
        try:
            return self._next_file() or self._file_at(at_path)
        except NotFoundError:
            return None  # Renamed in this very moment.

    def go_on_with(self, successor: LogFile) -> None:
        self.close()
        self._file = self.enter_context(successor)
        self._rewind()

    def _next_lines(self, is_complete: bool) -> list[bytes] | None:
        """Return further lines, or None where there are no more for now."""
        block = self._unread()
        end = block.rfind(b"\n") + 1
        if not end and (is_complete or len(block) > MAX_LINE_BYTES):
            end = len(block)
        if not end:
            return None
        self._offset += end
        self._anchor = (self._anchor + block[:end])[-_ANCHOR_BYTES:]
        lines = block[:end].removesuffix(b"\n").split(b"\n")
        if self._is_inside:
            del lines[0]
        self._is_inside = block[end - 1] != ord("\n")
        return lines

    def _unread(self) -> bytes:
        known = len(self._anchor)
        block = self._file.read_at(self._offset - known, known + MAX_LINE_BYTES + 1)
        if block.startswith(self._anchor):
            return block[known:]
        self._rewind()
        return self._file.read_at(0, MAX_LINE_BYTES + 1)

    def _skip(self, lines_before_offset: int, reason: str) -> None:
        number = 0
        if self._skipped.remembers_more:
            begun = self._file.newlines_before(self._offset) + self._is_inside
            number = begun - lines_before_offset + 1
        self._skipped.add(self._file.path, number, reason)

    def _next_file(self) -> LogFile | None:
        """Look for the next record at the beginning of the log and of the files beside it.

        It is in one of those beside it if the log was renamed more than once since the last look.

        Raises:
            NotFoundError: files were renamed meanwhile: what was not found may be among them.
        """
        since_ns = self._file.stat().st_mtime_ns
        files = self._files()
        for path in files:
            try:
                file = LogFile(path)
            except FusevolError:
                continue
            if file.stat().st_mtime_ns >= since_ns and self._has_next(file):
                return file
            file.close()
        # logrotate moves each file to the next number: one may have got a name that was looked at.
        if files != self._files():
            raise NotFoundError(f"{self._path} is being rotated")
        return None

    def _files(self) -> dict[str, tuple[int, int]]:
        """Return which files the names of the log and of those beside it lead to."""
        paths = []
        with contextlib.suppress(FusevolError):
            paths = rotated(self._path)
        found = {}
        for path in (self._path, *paths):
            with contextlib.suppress(OSError):
                status = os.stat(path)
                found[path] = status.st_dev, status.st_ino
        return found

    def _has_next(self, file: LogFile) -> bool:
        newest = self._newest
        try:
            record = parse(file.read_at(0, MAX_LINE_BYTES + 1).partition(b"\n")[0])
        except (FusevolError, MalformedRecordError):
            return False
        return newest is not None and (record.volume, record.seq) == (newest.volume, newest.seq + 1)

    def _file_at(self, at_path: os.stat_result | None) -> LogFile | None:
        """Return the file that is at the path, if it was when it was looked for, and is not empty.

        Another one may be made behind a file that has the next record and was renamed since.
        """
        if at_path is None or at_path.st_size == 0:
            return None
        file = LogFile(self._path)
        if os.path.samestat(at_path, file.stat()):
            return file
        file.close()
        return None
