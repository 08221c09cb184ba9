"""The records of an access log, from its beginning or from its end.

A log may hold lines that are not records: one that a crash cut off, one that somebody else wrote.
They are skipped and counted, never an error; empty lines do not count. Memory is bounded whatever
the file holds. Nothing here writes or locks, so any number of readers may read a log in use.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from fusevol.logs.lines import MAX_LINE_BYTES, LogFile, blocks_of_lines, is_file
from fusevol.record.formats import decode
from fusevol.record.record import AccessRecord, MalformedRecordError

_REMEMBERED: Final = 10

Predicate = Callable[[AccessRecord], bool]


class SkippedLine(NamedTuple):
    """A line that is not a record. `number` counts from 1."""

    path: str
    number: int
    reason: str


@dataclass
class Skipped:
    """What a reader skipped: how many lines, and the first few of them."""

    count: int = 0
    first: list[SkippedLine] = field(default_factory=list)

    def add(self, path: str, number: int, reason: str) -> None:
        self.count += 1
        if self.remembers_more:
            self.first.append(SkippedLine(path, number, reason))

    @property
    def remembers_more(self) -> bool:
        """Whether the number of a further line is worth finding out."""
        return len(self.first) < _REMEMBERED


def read(path: str, skipped: Skipped) -> Iterator[tuple[int, bytes, AccessRecord]]:
    """Yield (line number, line, record) of a log from its beginning; "-" is standard input.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: the log cannot be read.
    """
    number = 0
    for lines in blocks_of_lines(path):
        for line in lines:
            number += 1
            try:
                record = parse(line)
            except MalformedRecordError as error:
                if not is_blank(line):
                    skipped.add(path, number, str(error))
            else:
                yield number, line, record


def last(
    path: str, count: int, keep: Predicate, skipped: Skipped
) -> list[tuple[bytes, AccessRecord]]:
    """Return the last `count` records that `keep` accepts, oldest first, each with its line.

    A file is read backwards, no further than needed; a pipe from its beginning.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: the log cannot be read.
    """
    if is_file(path):
        with LogFile(path) as file:
            return last_in(file, file.lines_backwards(), count, keep, skipped)
    entries = ((line, record) for _number, line, record in read(path, skipped) if keep(record))
    return list(deque(entries, maxlen=count))


def last_record(path: str) -> AccessRecord | None:
    """Return the last record of a log file; None if it has none or is not a regular file.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: the log cannot be read.
    """
    if not is_file(path):
        return None
    with LogFile(path) as file:
        return first_record(line for _offset, line in file.lines_backwards())


def last_in(
    file: LogFile,
    lines: Iterator[tuple[int, bytes]],
    count: int,
    keep: Predicate,
    skipped: Skipped,
) -> list[tuple[bytes, AccessRecord]]:
    """Take `count` records that `keep` accepts from `lines`, which come backwards out of `file`.

    Returns them oldest first, each with its line.
    """
    found: list[tuple[bytes, AccessRecord]] = []
    malformed: deque[tuple[int, str]] = deque(maxlen=_REMEMBERED)
    forgotten = 0
    while len(found) < count and (entry := next(lines, None)):
        offset, line = entry
        try:
            record = parse(line)
        except MalformedRecordError as error:
            if not is_blank(line):
                forgotten += len(malformed) == _REMEMBERED
                malformed.append((offset, str(error)))
        else:
            if keep(record):
                found.append((line, record))
    for offset, reason in reversed(malformed):
        number = 1 + file.newlines_before(offset) if skipped.remembers_more else 0
        skipped.add(file.path, number, reason)
    skipped.count += forgotten
    return found[::-1]


def first_record(lines: Iterable[bytes]) -> AccessRecord | None:
    """Return the first of `lines` that is a record."""
    for line in lines:
        with contextlib.suppress(MalformedRecordError):
            return parse(line)
    return None


def parse(line: bytes) -> AccessRecord:
    """Return the record in `line`, in whichever format it is.

    Raises:
        MalformedRecordError: it is not a record, or too long.
    """
    if len(line) > MAX_LINE_BYTES:
        raise MalformedRecordError(f"longer than {MAX_LINE_BYTES} bytes")
    return decode(line)


def is_blank(line: bytes) -> bool:
    """Return whether a line is not a record, but no loss either."""
    return not line or line.isspace()
