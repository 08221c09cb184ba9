"""What comes into a log: all of it, or of too much a fair sample.

Reading every record of busy logs would take more of a processor than the view is worth. So there is
a bound in bytes; beyond it blocks are read from places at random, spread over all that was written,
and what they hold stands for the rest.
"""

import contextlib
import os
import random
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, TypeVar

from fusevol.errors import FusevolError
from fusevol.logs.decoding import LineDecoder, projection
from fusevol.logs.lines import MAX_LINE_BYTES, LogFile, is_file
from fusevol.logs.reader import is_blank
from fusevol.record.record import EVENTS, OK, AccessRecord, MalformedRecordError
from fusevol.recovery.counters import BUCKETS
from fusevol.top.activity import Activity

_BLOCK_BYTES: Final = 32 * 1024
_MOST_GROUPS: Final = 10_000

Key = TypeVar("Key")

OTHER_PATHS: Final = ""
"""In place of a path: all those that came when there were too many."""


class Actor(NamedTuple):
    """The author of an operation."""

    pid: int | None
    comm: str | None
    container: str | None


OTHER_PROCESSES: Final = Actor(None, None, "")
"""All those that came when there were too many."""


class NewLines(NamedTuple):
    """What came into a log since the last look.

    Attributes:
        paths, processes: what was done, to what and by whom.
        share: how much of it was read; 1 is all.
        malformed: how many lines were no records, of those read.
    """

    paths: dict[str, Activity]
    processes: dict[Actor, Activity]
    share: float
    malformed: int


class WatchedLog:
    """A log that is being written, from its present end on. One thread only; to be closed.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: it cannot be read, also from its methods.
    """

    def __init__(self, path: str) -> None:
        if not is_file(path):
            raise FusevolError(f"the log {path} is not a regular file")
        self.path = path
        self._tails = [_Tail(path)]
        self._tails[0].skip_to_end()

    def close(self) -> None:
        for tail in self._tails:
            tail.close()

    @property
    def is_removed(self) -> bool:
        """Whether nothing is at the path; what is written then still goes to the file that was."""
        return self._at_path() is None

    def look(self) -> int:
        """Return how many bytes there are that were not read.

        A log that was renamed and created again is read to its end, and the new one from its start.
        """
        at_path = self._at_path()
        is_known = at_path is None or os.path.samestat(at_path, self._tails[-1].file.stat())
        # While it is empty the writer may still hold the other one, as with logrotate.
        if at_path is not None and not is_known and at_path.st_size:
            self._tails.append(_Tail(self.path))
        return sum(tail.unread() for tail in self._tails)

    def read(self, most_bytes: int) -> NewLines:
        """Return what has come, from no more than about `most_bytes` of it."""
        groups = _Groups()
        passed = read = 0
        for tail in self._tails:
            before = tail.offset
            for lines in tail.lines(most_bytes):
                groups.add(lines)
                read += len(lines)
            passed += tail.offset - before
        for finished in self._tails[:-1]:
            finished.close()
        del self._tails[:-1]
        return groups.as_lines(min(read / passed, 1.0) if passed else 1.0)

    def _at_path(self) -> os.stat_result | None:
        try:
            return os.stat(self.path)
        except OSError:
            return None


class _Tail(contextlib.ExitStack):
    """A file, and how far it has been read: to the end of a line, as a rule."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.file = self.enter_context(LogFile(path))
        self.offset = 0

    def skip_to_end(self) -> None:
        self.offset = self.file.stat().st_size

    def unread(self) -> int:
        size = self.file.stat().st_size
        if size < self.offset:
            self.offset = 0  # Somebody has emptied it.
        return size - self.offset

    def lines(self, most_bytes: int) -> Iterator[bytes]:
        """Yield whole lines, many at a time, and go to the end of the last one."""
        length = self.unread()
        if length > max(most_bytes, _BLOCK_BYTES):
            yield from self._some_lines(length, most_bytes // _BLOCK_BYTES or 1)
            return
        block = self.file.read_at(self.offset, length)
        end = block.rfind(b"\n") + 1
        self.offset += end if end or length <= MAX_LINE_BYTES else length
        yield block[:end]

    def _some_lines(self, length: int, blocks: int) -> Iterator[bytes]:
        start, stride = self.offset, length // blocks
        for number in range(blocks):
            # One place in each part: where the log repeats itself, equal steps might hit the same.
            at = start + number * stride + random.randrange(stride - _BLOCK_BYTES + 1)
            block = self.file.read_at(at, _BLOCK_BYTES)
            yield block[block.find(b"\n") + 1 : block.rfind(b"\n") + 1]
        end = self.file.read_at(start + length - _BLOCK_BYTES, _BLOCK_BYTES)
        self.offset = start + length - (len(end) - end.rfind(b"\n") - 1)


_decoder: Final = LineDecoder(
    # Others are not worth their decoding.
    projection(("path", "pid", "comm", "container", "bytes_read", "bytes_written", "count"))
)
_EVENTS: Final = frozenset(EVENTS)


class _Groups:
    """Records counted by path and by process."""

    def __init__(self) -> None:
        self._paths: dict[str, Activity] = {}
        self._processes: dict[Actor, Activity] = {}
        self._malformed = 0

    def add(self, lines: bytes) -> None:
        """Count whole lines."""
        for record in self._records(lines):
            if record.op in _EVENTS:
                continue
            if record.path is not None:
                self._count(self._paths, record.path, OTHER_PATHS, record)
            process = Actor(record.pid, record.comm, record.container)
            self._count(self._processes, process, OTHER_PROCESSES, record)

    def as_lines(self, share: float) -> NewLines:
        return NewLines(self._paths, self._processes, share, self._malformed)

    def _records(self, lines: bytes) -> Iterable[AccessRecord]:
        records = _decoder.all_json(lines.removesuffix(b"\n"))
        return self._one_by_one(lines) if records is None else records

    def _one_by_one(self, lines: bytes) -> Iterator[AccessRecord]:
        """Yield the records of lines in other formats, or among such as are none."""
        for line in lines.split(b"\n"):
            try:
                yield _decoder.one(line)
            except MalformedRecordError:
                self._malformed += not is_blank(line)

    @staticmethod
    def _count(groups: dict[Key, Activity], key: Key, others: Key, record: AccessRecord) -> None:
        activity = groups.get(key)
        if activity is None:
            if len(groups) >= _MOST_GROUPS:
                key = others
            activity = groups.setdefault(key, Activity())
        times = max(record.count or 1, 1)
        us = record.us
        activity.count += times
        activity.total_us += us
        activity.buckets[min((us // times).bit_length(), BUCKETS - 1)] += times
        if record.result != OK:
            activity.failures[record.result] = activity.failures.get(record.result, 0) + times
        # A release has the same bytes once more.
        elif record.op == "read":
            activity.bytes_read += record.bytes_read or 0
        elif record.op == "write":
            activity.bytes_written += record.bytes_written or 0
