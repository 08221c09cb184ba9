"""What a sink has not got yet: the records of a log after a certain one, then those that come.

Whatever was rotated or compressed meanwhile. Numbers have no gaps, so what is missing shows, at the
next record or, if none comes, by the newest number that is known otherwise. It is looked for in all
files of the log; what is in none of them becomes a `gap` record, which has their number.

A log can start over under old numbers, after all that was known of it was removed. A position is
therefore a number and the time of that record: where the log has another record of this number, or
ends before it, it is sent from its beginning.
"""

import time
from collections.abc import Callable, Generator, Iterator
from typing import Final, Self

from fusevol.logagent.positions import Position
from fusevol.logs.follow import GrowingLog
from fusevol.logs.reader import Skipped
from fusevol.logs.sections import opened
from fusevol.record.record import OK, AccessRecord, encode
from fusevol.record.times import now

Entry = tuple[bytes, AccessRecord]
"""A line and the record in it."""

REMOVED: Final = "removed before it could be sent"
BEGUN_ANEW: Final = "the log began anew before all of it was sent"
_LOOKS: Final = 3
"""How often files are looked through for a record, as they may be renamed meanwhile."""
_LOOK_AGAIN_S: Final = 0.3


class _OtherLogError(Exception):
    """The log is not the one that the position is of."""


class _ReadAnewError(Exception):
    """The log has to be reopened: it goes on with numbers that were there before."""


def position_after(record: AccessRecord) -> Position:
    """Return the position of a sink that has got a record."""
    is_ours = record.op == "gap" and record.reason in (REMOVED, BEGUN_ANEW)
    return Position(record.seq, "" if is_ours else record.time, record.volume)


class Backlog:
    """What a sink has not got yet. A context manager that closes the log.

    Attributes:
        is_empty: the last `take` has found the end of the log.
    """

    def __init__(self, path: str, position: Position, newest: Callable[[], int]) -> None:
        """Begin after a position.

        Args:
            path: of the log.
            position: of the sink.
            newest: returns the highest number that a record of the log is known to have.

        Raises:
            NotFoundError, NotPermittedError, FusevolError: the log cannot be read.
        """
        self._path = path
        self._newest = newest
        self._position = position
        """After what was given out last."""
        self._owed = 0
        """Records of an earlier log that no gap has reported."""
        self._stale = -1
        """What was known as the newest number of an earlier log."""
        self._is_this_log = False
        """Whether the record at the position, or what follows it, was seen."""
        self._has_begun = False
        self._log = self._opened()
        self.is_empty = False
        self._entries = self._all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the log."""
        self._entries.close()
        self._log.close()

    def take(self, count: int) -> list[Entry]:
        """Return up to `count` records; none if there are none for now.

        Raises:
            NotFoundError, NotPermittedError, FusevolError: the log cannot be read.
        """
        taken: list[Entry] = []
        self.is_empty = False
        for entry in self._entries:
            if entry is None:
                self.is_empty = True
                break
            taken.append(entry)
            if len(taken) == count:
                break
        return taken

    @property
    def _seq(self) -> int:
        return self._position.seq

    def _opened(self) -> GrowingLog:
        """Return the log, at the position or before it."""
        log = GrowingLog(self._path, Skipped())
        if not log.skip_to(self._seq):
            self._forget()
        self._has_begun = False
        return log

    def _forget(self) -> None:
        """Begin with number 1: the log is another one."""
        self._stale = self._newest()
        self._owed += max(0, self._stale - self._seq)
        self._position = Position(0, "", self._position.volume)

    def _all(self) -> Generator[Entry | None]:
        """Yield all records; None when there are no more for now."""
        while True:
            try:
                yield from self._in_this_log()
            except _OtherLogError:
                self._forget()
            except _ReadAnewError:
                pass
            self._log.close()
            self._log = self._opened()

    def _in_this_log(self) -> Generator[Entry | None]:
        if self._log.is_empty:
            yield from self._from_all_files(None)
        while True:
            # Asked before reading: what had this number then is found, if it is anywhere.
            newest = self._newest()
            at_path = self._log.at_path()
            yield from self._in_order(self._log.appended())
            successor = self._log.successor(at_path)
            if successor is None:
                if self._owed:
                    yield self._gap_up_to(self._seq, self._position.volume)
                elif newest > self._seq and newest != self._stale:
                    yield from self._from_all_files(newest + 1)
                self._has_begun = True
                yield None
            else:
                yield from self._in_order(self._log.appended(is_complete=True))
                self._log.go_on_with(successor)

    def _in_order(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        for line, record in entries:
            if record.seq <= self._seq:
                self._compare(record)
                if self._has_begun:
                    raise _ReadAnewError
                continue
            self._has_begun = True
            if record.seq > self._seq + 1 or not self._is_this_log:
                yield from self._from_all_files(record.seq)
            yield from self._given(line, record)

    def _compare(self, record: AccessRecord) -> None:
        """Raise _OtherLogError for a record that has the number of another that was sent."""
        known = self._position
        if record.seq == known.seq:
            if known.time not in ("", record.time):
                raise _OtherLogError
            self._is_this_log = True

    def _given(self, line: bytes, record: AccessRecord) -> Iterator[Entry]:
        """Yield a record, behind a gap for what is missing before it."""
        if self._owed or record.seq > self._seq + 1:
            yield self._gap_up_to(record.seq - 1, record.volume)
        self._position = position_after(record)
        self._is_this_log = True
        yield line, record

    def _gap_up_to(self, seq: int, volume: str) -> Entry:
        known = self._position
        gap = AccessRecord(
            time=now(), seq=seq, volume=volume, op="gap", result=OK, us=0,
            reason=BEGUN_ANEW if self._owed else REMOVED, lost=self._owed + seq - known.seq,
            since=known.time or None,
        )  # fmt: skip
        self._owed = 0
        self._position = position_after(gap)
        return encode(gap), gap

    def _from_all_files(self, until: int | None) -> Iterator[Entry]:
        """Yield the records before number `until` that are in any file, and gaps for others."""
        for _ in range(_LOOKS - 1):
            if (yield from self._in_all_files(until, with_gaps=False)):
                return
            time.sleep(_LOOK_AGAIN_S)
        if not (yield from self._in_all_files(until, with_gaps=True)):
            assert until is not None
            yield self._gap_up_to(until - 1, self._position.volume)

    def _in_all_files(self, until: int | None, *, with_gaps: bool) -> Generator[Entry, None, bool]:
        """Yield records; return whether all were there, or reported."""
        with opened([self._path], with_rotated=True) as sections:
            firsts = [section.first() for section in sections]
            for section, after in zip(sections, [*firsts[1:], None], strict=False):
                if after is not None and after.seq <= self._seq:
                    continue
                for batch in section.batches(Skipped()):
                    lines = batch.block.split(b"\n")
                    for line, record in zip(lines, batch.records, strict=True):
                        if record is None:
                            continue
                        if record.seq <= self._seq:
                            self._compare(record)
                            continue
                        if until is not None and record.seq >= until:
                            return self._seq + 1 >= until
                        if record.seq > self._seq + 1 and not with_gaps:
                            return False
                        yield from self._given(line, record)
        return until is None or self._seq + 1 >= until
