"""One section of a chained log, checked by itself: all but what its first record follows on."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from fusevol.logs.compression import DamagedError
from fusevol.logs.sections import Section
from fusevol.proof.judges import Judge, Link, UnhashedLines
from fusevol.record.links import is_hashed, seq_of


@dataclass
class HashedLine:
    """A line with a hash.

    Attributes:
        number: in its section, from 1; in its file, once the sections before are known.
        before: what is between it and the line with a hash before.
    """

    line: bytes
    number: int
    before: UnhashedLines = field(default_factory=UnhashedLines)


@dataclass
class Mismatch:
    """Where a record does not follow on the one before.

    Attributes:
        previous: the last line that is as it should be; None at the beginning.
        spot: the line that does not follow; None if only lines without a hash do.
        following: the line behind it, if that has a hash.
        damage: what is wrong with compressed data.
    """

    previous: bytes | None
    spot: HashedLine | None
    following: bytes | None = None
    damage: str = ""


@dataclass
class SectionCheck:
    """What was found in a section.

    Attributes:
        lines, hashed: how many there are, and how many of them have a hash.
        first: the first line with a hash; what it follows on is not checked yet.
        second: the one behind it.
        last: the last line with a hash; `after` is what follows.
        mismatch: the first one; nothing behind it was looked at.
        off: numbers of the records between which the chain was off.
        torn: numbers of the lines that a crash left half-written.
        checkpoints: how many there are.
        saw: the line that was looked for was there.
        is_cut: the last line is not ended.
    """

    lines: int = 0
    hashed: int = 0
    first: HashedLine | None = None
    second: bytes | None = None
    last: bytes | None = None
    after: UnhashedLines = field(default_factory=UnhashedLines)
    mismatch: Mismatch | None = None
    off: list[tuple[int, int]] = field(default_factory=list)
    torn: list[int] = field(default_factory=list)
    checkpoints: int = 0
    saw: bool = False
    is_cut: bool = False

    def place(self, path: str, lines_before: int) -> None:
        """Make numbers of lines those of the file at `path`."""
        spots = [self.first, self.mismatch.spot if self.mismatch is not None else None]
        for spot in spots:
            if spot is not None:
                spot.number += lines_before
        for between in (self.after, *(spot.before for spot in spots if spot is not None)):
            between.path = path
            between.number += lines_before
        self.torn = [number + lines_before for number in self.torn]


def check(section: Section, judge: Judge, wanted: bytes, since: int) -> SectionCheck:
    """Check a section.

    Args:
        wanted: what to look for besides, such as the hash of the newest checkpoint.
        since: records with lower numbers are passed over.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: the file cannot be read.
    """
    run = SectionCheck()
    walk = _Walk(run, judge)
    try:
        lines = _lines(section, run, wanted)
        if since:
            lines = _from(since, lines, run)
        walk.over(lines)
    except DamagedError as error:
        run.mismatch = Mismatch(run.last, None, damage=str(error))
    run.is_cut = _is_cut(section)
    return run


def _lines(section: Section, run: SectionCheck, wanted: bytes) -> Iterator[bytes]:
    for block in section.blocks():
        run.checkpoints += block.count(b'"op":"checkpoint"')
        run.saw = run.saw or (bool(wanted) and wanted in block)
        yield from block.split(b"\n")


def _from(since: int, lines: Iterator[bytes], run: SectionCheck) -> Iterator[bytes]:
    for line in lines:
        if (seq_of(line) or 0) >= since:
            yield line
            break
        run.lines += 1
    yield from lines


class _Walk:
    """Goes over the lines of a section, as far as they follow on one another."""

    def __init__(self, run: SectionCheck, judge: Judge) -> None:
        self._run = run
        self._judge = judge

    def over(self, lines: Iterator[bytes]) -> None:
        run = self._run
        previous, lines = self._find_first(lines)
        while previous is not None:
            count, previous, odd = self._judge.advance(lines, previous)
            run.lines += count + (odd is not None)
            run.hashed += count
            run.last = previous
            previous = None if odd is None else self._go_on_behind(odd, previous, lines)

    def _find_first(self, lines: Iterator[bytes]) -> tuple[bytes | None, Iterator[bytes]]:
        """Return the first line with a hash, and those behind it."""
        run = self._run
        spot = self._next_hashed(lines, UnhashedLines())
        if spot is None:
            return None, lines
        run.first = spot
        run.last = spot.line
        run.hashed = 1
        run.second = next(lines, None)
        return spot.line, itertools.chain([] if run.second is None else [run.second], lines)

    def _go_on_behind(self, odd: bytes, previous: bytes, lines: Iterator[bytes]) -> bytes | None:
        """Return the line to go on behind, None if there is none or it does not follow."""
        run = self._run
        if is_hashed(odd):
            spot: HashedLine | None = HashedLine(odd, run.lines)
        else:
            spot = self._next_hashed(lines, UnhashedLines.of(odd, run.lines))
        if spot is None:
            return None
        link = self._judge.joins(spot.line, previous, spot.before)
        if link is Link.BROKEN:
            following = next(lines, None)
            if following is not None and not is_hashed(following):
                following = None
            run.mismatch = Mismatch(previous, spot, following)
            return None
        note(run, link, spot)
        run.hashed += 1
        run.last = spot.line
        return spot.line

    def _next_hashed(self, lines: Iterator[bytes], before: UnhashedLines) -> HashedLine | None:
        run = self._run
        for line in lines:
            run.lines += 1
            if is_hashed(line):
                return HashedLine(line, run.lines, before)
            before.add(UnhashedLines.of(line, run.lines))
        run.after = before
        return None


def note(run: SectionCheck, link: Link, spot: HashedLine) -> None:
    """Note what is worth telling of how a line follows on what is before."""
    if link is Link.TORN:
        run.torn.append(spot.before.number)
    elif link is Link.RESUMED and spot.before.seq is not None:
        last = spot.before.last_seq
        run.off.append((spot.before.seq, spot.before.seq if last is None else last))


def _is_cut(section: Section) -> bool:
    """Return whether a file that can be read at any place ends within a line."""
    if section.end is None or section.fd < 0:
        return False
    return section.end > 0 and os.pread(section.fd, 1, section.end - 1) != b"\n"
