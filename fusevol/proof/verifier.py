"""The reader's side of a chain: finds the first record that is not as it was written.

All files of a log are checked in sections, in several processes; here they are put together. What
is kept beside the key is read before the files are opened, so that a log may grow meanwhile. If
files come or go meanwhile, a look that has found something is repeated.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from fusevol.errors import FusevolError, NotFoundError
from fusevol.logs.log_files import rotated
from fusevol.logs.parallel import in_order
from fusevol.logs.sections import Section
from fusevol.proof import files
from fusevol.proof.findings import Finding, Tampering, classify
from fusevol.proof.judges import Judge, Link, UnhashedLines, record_in
from fusevol.proof.ledger import Head, Mark
from fusevol.proof.section_check import HashedLine, Mismatch, SectionCheck, check, note
from fusevol.record.links import hash_of, seq_of

_LOOKS: Final = 5
_PAUSE_S: Final = 0.1


class Report(msgspec.Struct, omit_defaults=True):
    """What verification has found.

    Attributes:
        finding: the first thing that is wrong; None if the log is as it was written.
        records: how many were checked, from `first_seq` to `last_seq`; `checkpoints` of them are
            such.
        volume: the one of the last record.
        begun_at: number of the record where the chain begins, if there are others before.
        removed: numbers of the first and the last record of each part that was removed on purpose.
        off: numbers of the first and the last record of each part in which the chain was off.
        torn: lines that a crash left half-written, as (file, line).
        newest: number of the last record that the newest kept checkpoint covers; 0 if unknown.
    """

    finding: Finding | None = None
    records: int = 0
    first_seq: int = 0
    last_seq: int = 0
    checkpoints: int = 0
    volume: str = ""
    begun_at: int = 0
    removed: list[tuple[int, int]] = []
    off: list[tuple[int, int]] = []
    torn: list[tuple[str, int]] = []
    newest: int = 0


@dataclass
class Question:
    """What is to be verified.

    Attributes:
        paths: the files of the log.
        with_rotated: whether what was rotated of them belongs to it.
        volume: whose log it has to be, as in records; empty for anybody's.
        since: number of a record that is taken for given, with all before it; 0 for none.
    """

    paths: Sequence[str]
    with_rotated: bool = True
    volume: str = ""
    since: int = 0


Kept = Callable[[], tuple[Head | None, list[Mark]]]
"""Reads what is kept of the log: the newest checkpoint, and up to where it was removed."""


def verify(question: Question, judge: Judge, kept: Kept, processes: int) -> Report:
    """Verify a log.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: the log, or what is kept of it, cannot be
            read; or nothing in it is chained.
    """
    report = None
    for look in range(1, _LOOKS + 1):
        before = _state(question.paths)
        head, marks = kept()
        try:
            with files.in_order(question.paths, with_rotated=question.with_rotated) as sections:
                report = _Pass(question, judge, head, marks, sections).over_all(processes)
        except NotFoundError:
            # For a moment of a rotation there is no file, and older ones have other names.
            if look == _LOOKS or not before:
                raise
            time.sleep(_PAUSE_S)
            continue
        if report.finding is None or _state(question.paths) == before:
            break
    assert report is not None
    return report


def _state(paths: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return what changes when a log is rotated or grows."""
    found = []
    for path in paths:
        names = []
        with contextlib.suppress(FusevolError):
            names = rotated(path)
        for name in (path, *names):
            with contextlib.suppress(OSError):
                status = os.stat(name)
                found.append((name, status.st_ino, status.st_size if name == path else 0))
    return sorted(found)


class _Pass:
    """One look at a log."""

    def __init__(
        self,
        question: Question,
        judge: Judge,
        head: Head | None,
        marks: list[Mark],
        sections: Sequence[Section],
    ) -> None:
        self._judge = judge
        self._head = head
        self._marks = marks
        self._since = question.since
        self._volume = question.volume or (head.volume if head is not None else "")
        self._sections = _from_section(sections, question.since)
        self._previous: bytes | None = None
        self._place = (question.paths[-1], 0)
        self._between = UnhashedLines()
        self._saw_head = False
        self._report = Report(newest=head.seq if head is not None else 0)

    def over_all(self, processes: int) -> Report:
        """Look at all sections."""
        report = self._report
        report.finding = self._over(processes)
        if self._previous is not None:
            last = record_in(self._previous)
            report.last_seq = seq_of(self._previous) or 0
            report.volume = last.volume if last is not None else ""
        elif report.finding is None and self._head is None:
            raise FusevolError(
                "cannot verify this log, as none of its records has a hash; with the option chain, "
                "new records get one"
            )
        report.finding = report.finding or self._whose() or self._at_the_end()
        return report

    def _over(self, processes: int) -> Finding | None:
        path, before = "", 0
        wanted = self._head.hash.encode() if self._head is not None else b""
        first = self._sections[0] if self._sections else None

        def work(section: Section) -> Iterator[SectionCheck]:
            since = self._since if section is first else 0
            yield check(section, self._judge, wanted, since)

        with contextlib.closing(in_order(self._sections, work, processes)) as runs:
            for section, run in runs:
                if section.path != path:
                    path, before = section.path, _lines_before(section)
                finding = self._take(run, path, before)
                if finding is not None:
                    return finding
                before += run.lines
        return None

    def _take(self, run: SectionCheck, path: str, lines_before: int) -> Finding | None:
        """Put what was found in the next section behind what was before; return what is wrong."""
        report = self._report
        run.place(path, lines_before)
        report.records += run.hashed
        report.checkpoints += run.checkpoints
        self._saw_head = self._saw_head or run.saw
        if run.first is not None:
            self._between.add(run.first.before)
            spot = HashedLine(run.first.line, run.first.number, self._between)
            link = self._link(spot)
            if link is Link.BROKEN:
                return self._finding(Mismatch(self._previous, spot, run.second), path)
            if link is Link.TORN:
                report.torn.append((spot.before.path, spot.before.number))
            else:
                note(run, link, spot)
            self._previous, self._between = run.last, UnhashedLines()
        self._between.add(run.after)
        self._place = (path, lines_before + run.lines)
        report.off += run.off
        report.torn += [(path, number) for number in run.torn]
        if run.mismatch is not None:
            return self._finding(run.mismatch, path)
        if run.is_cut and not run.after.count and run.last is not None:
            return Finding(
                Tampering.CHANGED,
                seq_of(run.last) or 0,
                *self._place,
                detail="its line has no end",
            )
        return None

    def _link(self, spot: HashedLine) -> Link:
        report = self._report
        if self._previous is not None:
            link = self._judge.joins(spot.line, self._previous, spot.before)
        else:
            report.first_seq = seq_of(spot.line) or 0
            link = Link.LINKED if self._since else self._judge.begins(spot.line, spot.before)
            if link is Link.START and report.first_seq > 1:
                report.begun_at = report.first_seq
        if link is not Link.BROKEN:
            return link
        removed = self._removed_before(spot)
        report.removed += [removed] if removed else []
        return Link.REMOVED if removed else Link.BROKEN

    def _removed_before(self, spot: HashedLine) -> tuple[int, int] | None:
        """Return what was removed on purpose right before a line, if that is all that is missing.

        As numbers of the first and the last record.
        """
        seq = spot.before.seq if spot.before.count else seq_of(spot.line)
        marks = {mark.seq: mark for mark in self._marks}
        last = marks.get((seq or 0) - 1)
        if last is None or not self._judge.joins_removed(spot.line, last, spot.before):
            return None
        first = last.first
        while (mark := marks.get(first - 1)) is not None:
            first = mark.first
        if self._previous is not None:
            is_all = first <= (seq_of(self._previous) or 0) + 1
        else:
            is_all = self._head is None or first <= self._head.begun
        return (first, last.seq) if is_all else None

    def _finding(self, mismatch: Mismatch, path: str) -> Finding:
        if self._previous is not None and mismatch.previous is None:
            mismatch.previous = self._previous
        if mismatch.previous is not None:
            expected = (seq_of(mismatch.previous) or 0) + 1
        else:
            expected = self._expected_first()
        if mismatch.spot is None:
            return Finding(Tampering.CHANGED, expected, *self._place, detail=mismatch.damage)
        finding = classify(mismatch, path, self._judge, self._is_elsewhere, expected)
        if mismatch.previous is None and finding.kind is Tampering.REMOVED:
            finding.detail = (
                f"older records; if this is expected, use --since-seq {(finding.until or 0) + 1}"
            )
        return finding

    def _expected_first(self) -> int:
        """Return the number that the first record should have, as far as that is known."""
        marks = {mark.first: mark for mark in self._marks}
        oldest = min(marks, default=1)
        expected = oldest if oldest <= (self._head.begun if self._head is not None else 1) else 1
        while (mark := marks.get(expected)) is not None:
            expected = mark.seq + 1
        return expected

    def _is_elsewhere(self, seq: int) -> bool:
        wanted = b'"seq":%d,' % seq
        return any(wanted in block for section in self._sections for block in section.blocks())

    def _whose(self) -> Finding | None:
        report = self._report
        if not self._volume or not report.volume or report.volume == self._volume:
            return None
        detail = f"this is the log of volume {report.volume}, not of {self._volume}"
        return Finding(Tampering.REPLACED, report.last_seq, *self._place, detail=detail)

    def _at_the_end(self) -> Finding | None:
        """Return what is wrong behind the last record that has a hash."""
        head, between, last = self._head, self._between, self._report.last_seq
        if between.count and not self._is_off():
            kind = Tampering.CHANGED if between.seq == last + 1 else Tampering.INSERTED
            detail = (
                "a line that is not a record" if between.seq is None else "a record without a hash"
            )
            return Finding(kind, last + 1, between.path, between.number, detail=detail)
        if between.count and between.seq is not None:
            self._report.off.append((between.seq, between.last_seq or between.seq))
        if head is None or head.seq < max(self._since, self._report.first_seq):
            return None
        if last < head.seq:
            return Finding(
                Tampering.CUT, last + 1, *self._place, until=head.seq,
                detail=f"there were {head.seq} at {head.time}",
            )  # fmt: skip
        if not self._saw_head:
            detail = f"record {head.seq} is not the one of {head.time}"
            return Finding(Tampering.REPLACED, head.seq, *self._place, detail=detail)
        return None

    def _is_off(self) -> bool:
        head, previous = self._head, self._previous
        if head is None or not head.stopped:
            return False
        return previous is None or hash_of(previous) == head.hash.encode()


def _from_section(sections: Sequence[Section], since: int) -> list[Section]:
    """Leave out what lies before the record with a number."""
    begin = 0
    if since:
        for index, section in enumerate(sections):
            record = section.first()
            if record is not None and record.seq <= since:
                begin = index
    return list(sections[begin:])


def _lines_before(section: Section) -> int:
    if not section.start:
        return 0
    before = section._replace(start=0, end=section.start)
    return sum(block.count(b"\n") + 1 for block in before.blocks())
