"""A whole log, cut into sections that can be read independently of each other.

A whole log is all of its files: those that were rotated, compressed or not, and the one that is
being written. They are put in the order of their records, and stay open from the beginning, so that
nothing is missed or read twice when they are renamed meanwhile.

What was skipped is counted for each section; `Tally` puts that together.
"""

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from fusevol.errors import NotFoundError
from fusevol.logs.compression import DamagedError, Read, decompressed, is_compressed
from fusevol.logs.decoding import LineDecoder
from fusevol.logs.lines import MAX_LINE_BYTES, STDIN, explained, is_file
from fusevol.logs.log_files import in_order, is_copy, parts_of_log, rotated
from fusevol.logs.reader import Skipped, SkippedLine, is_blank
from fusevol.record.record import AccessRecord, MalformedRecordError

if TYPE_CHECKING:
    import io

_SECTION_BYTES: Final = 4 * 1024 * 1024
_BLOCK_BYTES: Final = 64 * 1024
"""What is read at once: larger blocks are slower, as they do not fit in the processor's cache."""

_BATCHES_FOR_FIRST: Final = 8
"""How far into a file its first record is looked for."""

_WHOLE_LINE_S: Final = 0.01
"""How long a line may take until all of it is in the file."""


class Batch(NamedTuple):
    """Some lines of a section.

    Attributes:
        before: how many lines of the section are before them.
        block: the lines.
        records: a record for each line, None where it is none.
        is_json: whether all lines are records in JSON.
    """

    before: int
    block: bytes
    records: Sequence[AccessRecord | None]
    is_json: bool


class Section(NamedTuple):
    """Part of a log: whole lines of a file, or all of what cannot be read in parts.

    Attributes:
        path: of the file, for messages.
        fd: the open file; -1 for standard input.
        start, end: bytes of the file; an end of None is all there is, of a pipe or a compressed
            file.
    """

    path: str
    fd: int
    start: int
    end: int | None

    def batches(self, skipped: Skipped, kind: type[AccessRecord] = AccessRecord) -> Iterator[Batch]:
        """Yield what the section holds, many lines at a time.

        What is not a record goes into `skipped`; numbers count from the section's start.

        Args:
            skipped: gets what is passed over.
            kind: a `projection` for who needs some keys only; records may have more than those.

        Raises:
            NotFoundError, NotPermittedError, FusevolError: the file cannot be read.
        """
        before = 0
        decoder = LineDecoder(kind)
        try:
            for block in self.blocks():
                records: Sequence[AccessRecord | None] | None = decoder.all_json(block)
                is_json = records is not None
                if records is None:
                    records = self._some_records(block, decoder, before, skipped)
                yield Batch(before, block, records, is_json)
                before += len(records)
        except DamagedError as error:
            skipped.add(self.path, before + 1, str(error))

    def first(self) -> AccessRecord | None:
        """Return the first record, None if there is none near the beginning.

        Raises:
            NotFoundError, NotPermittedError, FusevolError: the file cannot be read.
        """
        batches = itertools.islice(self.batches(Skipped()), _BATCHES_FOR_FIRST)
        return next((one for batch in batches for one in batch.records if one is not None), None)

    def blocks(self) -> Iterator[bytes]:
        """Yield whole lines, many at a time, without the last newline.

        A line too long is cut to what is still too long.

        Raises:
            NotFoundError, NotPermittedError, FusevolError: the file cannot be read.
            DamagedError: compressed data ends early or is not valid.
        """
        with explained(self.path), self._opened() as read:
            rest = b""
            while block := read(_BLOCK_BYTES):
                end = block.rfind(b"\n")
                if end >= 0:
                    yield rest + block[:end]
                    rest = block[end + 1 :]
                elif len(rest) <= MAX_LINE_BYTES:
                    rest += block
            if rest:
                yield rest

    def _some_records(
        self, block: bytes, decoder: LineDecoder, before: int, skipped: Skipped
    ) -> list[AccessRecord | None]:
        records: list[AccessRecord | None] = []
        for line in block.split(b"\n"):
            try:
                records.append(decoder.one(line))
            except MalformedRecordError as error:
                records.append(None)
                if not is_blank(line):
                    skipped.add(self.path, before + len(records), str(error))
        return records

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Read]:
        if self.end is not None:
            yield _range_reader(self.fd, self.start, self.end)
        elif self.path == STDIN:
            # Whatever stands for the file: tests and other callers replace sys.stdin.
            yield cast("io.BufferedReader", sys.stdin.buffer).read1
        elif is_compressed(self.path):
            # Reopened, for a position of its own, and by number: the file may have been renamed.
            with decompressed(self.path, f"/proc/self/fd/{self.fd}") as read:
                yield read
        else:
            yield lambda size: os.read(self.fd, size)


def is_stream(section: Section) -> bool:
    """Return whether it is a pipe, on which records may come one by one."""
    return section.end is None and not is_compressed(section.path)


def _range_reader(fd: int, start: int, end: int) -> Read:
    position = start

    def read(size: int) -> bytes:
        nonlocal position
        block = os.pread(fd, min(size, end - position), position)
        position += len(block)
        return block

    return read


@dataclass
class Tally:
    """What was skipped in a log as a whole, put together from its sections, in their order."""

    skipped: Skipped = field(default_factory=Skipped)

    def add(self, section: Section, skipped: Skipped) -> None:
        """Add what was skipped in one section.

        Raises:
            FusevolError: the file cannot be read.
        """
        if skipped.count and not self.skipped.count:
            path, number, reason = min(skipped.first, key=lambda line: line.number)
            before = _newlines(section.fd, section.start, path) if section.start else 0
            self.skipped.first = [SkippedLine(path, before + number, reason)]
        self.skipped.count += skipped.count


def _newlines(fd: int, end: int, path: str) -> int:
    read = _range_reader(fd, 0, end)
    with explained(path):
        return sum(block.count(b"\n") for block in iter(lambda: read(_BLOCK_BYTES), b""))


class _File(NamedTuple):
    section: Section
    first: AccessRecord | None

    @property
    def path(self) -> str:
        return self.section.path

    @property
    def volume(self) -> str | None:
        return self.first.volume if self.first is not None else None


@contextlib.contextmanager
def opened(paths: Sequence[str], *, with_rotated: bool) -> Iterator[list[Section]]:
    """Open a log; give out its sections, in the order of their records, as long as it is open.

    Args:
        paths: files, pipes and "-" for standard input. A file that is named twice is read once. If
            there is something among them that is not a file, they stay in the order they are in.
        with_rotated: whether to read also what was rotated of each file.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: one of them cannot be read.
    """
    with contextlib.ExitStack() as stack:
        groups = [_files(path, with_rotated, stack) for path in paths]
        files = _without_repeats(itertools.chain.from_iterable(groups))
        if not any(map(_is_pipe, files)):
            files = in_order(files)
        yield [part for file in files for part in _cut(file.section)]


def _files(path: str, with_rotated: bool, stack: contextlib.ExitStack) -> list[_File]:
    """Return the file at `path`, and what was rotated of it."""
    try:
        if not is_file(path):
            return [_File(_open(path, stack), None)]
        current = _existing([path], stack)
    except NotFoundError:
        # It may just have been rotated, and the new file not started.
        current = []
    older = []
    if with_rotated and os.path.isdir(os.path.dirname(os.path.realpath(path))):
        found = _existing(rotated(path), stack)
        older = parts_of_log(path, current[0] if current else None, found)
    firsts = {one.path: one.first for one in older}
    files = [*(one for one in older if not _is_copy(one, firsts)), *current]
    return files or [_File(_open(path, stack), None)]


def _is_pipe(file: _File) -> bool:
    return is_stream(file.section)


def _existing(paths: Sequence[str], stack: contextlib.ExitStack) -> list[_File]:
    """Open files; leave out those that were renamed since their directory was looked at."""
    found = []
    for path in paths:
        with contextlib.suppress(NotFoundError):
            section = _open(path, stack)
            found.append(_File(section, section.first()))
    return found


def _is_copy(file: _File, firsts: dict[str, AccessRecord | None]) -> bool:
    """Return whether a file is what is just being compressed of another that is there still."""
    original = file.path.rpartition(".")[0]
    return is_copy(file.path, firsts) and file.first in (None, firsts[original])


def _open(path: str, stack: contextlib.ExitStack) -> Section:
    if path == STDIN:
        return Section(path, -1, 0, None)
    with explained(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        size = _size(fd) if is_file(path) and not is_compressed(path) else None
    return Section(path, fd, 0, size)


def _size(fd: int) -> int:
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        # Half a line, or one of which the kernel has just let the first part be seen.
        time.sleep(_WHOLE_LINE_S)
        size = os.fstat(fd).st_size
    return size


def _without_repeats(files: Iterator[_File]) -> list[_File]:
    found: dict[tuple[int, int] | None, _File] = {}
    for file in files:
        fd = file.section.fd
        status = os.fstat(fd) if fd >= 0 else None
        found.setdefault((status.st_dev, status.st_ino) if status else None, file)
    return list(found.values())


def _cut(section: Section) -> Iterator[Section]:
    if section.end is None:
        yield section
        return
    start = 0
    while start < section.end:
        end = _line_end(section, start + _SECTION_BYTES)
        yield section._replace(start=start, end=end)
        start = end


def _line_end(section: Section, position: int) -> int:
    """Return where the line around `position` ends, behind its newline."""
    end = section.end or 0
    with explained(section.path):
        while position < end:
            block = os.pread(section.fd, _BLOCK_BYTES, position)
            newline = block.find(b"\n")
            if newline >= 0:
                return min(position + newline + 1, end)
            if not block:
                break
            position += len(block)
    return end
