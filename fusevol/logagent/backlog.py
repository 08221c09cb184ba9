"""The records of a log after a certain number: those that are there, then those that come.

Whatever was rotated or compressed meanwhile. Numbers have no gaps, so what is missing shows: it is
looked for in the rotated files; what has been removed already becomes a `gap` record.
"""

import time
from collections.abc import Generator, Iterator
from typing import Final

from fusevol.accesslog.follow import GrowingLog
from fusevol.accesslog.reader import Skipped
from fusevol.accesslog.record import OK, AccessRecord, encode
from fusevol.accesslog.sections import opened
from fusevol.accesslog.times import now

Entry = tuple[bytes, AccessRecord]
"""A line and the record in it."""

REMOVED: Final = "removed before it could be sent"
_LOOKS: Final = 3
"""How often rotated files are looked through for a record, as they may be renamed meanwhile."""
_LOOK_AGAIN_S: Final = 0.3


class Backlog:
    """What a sink has not got yet.

    Attributes:
        seq: number of the record that was given out last.
        is_empty: the last `take` has found the end of the log.
    """

    def __init__(self, path: str, seq: int) -> None:
        """Begin after record `seq`.

        Raises:
            NotFoundError, NotPermittedError, FusevolError: the log cannot be read.
        """
        self._path = path
        self._log = GrowingLog(path, Skipped())
        self.seq = seq if self._log.skip_to(seq) else 0
        self.is_empty = False
        self._has_begun = False
        self._entries = self._all()

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

    def _all(self) -> Generator[Entry | None]:
        """Yield all records; None when there is no more for now."""
        if self._log.is_empty:
            yield from self._rotated_away(None)
        while True:
            at_path = self._log.at_path()
            yield from self._in_order(self._log.appended())
            successor = self._log.successor(at_path)
            if successor is None:
                self._has_begun = True
                yield None
            else:
                yield from self._in_order(self._log.appended(is_complete=True))
                self._log.go_on_with(successor)

    def _in_order(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        for line, record in entries:
            if record.seq <= self.seq and not self._has_begun:
                continue
            if record.seq <= self.seq:
                # A log that was removed with all its files begins anew.
                self.seq = record.seq - 1
            self._has_begun = True
            if record.seq > self.seq + 1:
                yield from self._rotated_away(record)
            self.seq = record.seq
            yield line, record

    def _rotated_away(self, following: AccessRecord | None) -> Iterator[Entry]:
        """Yield the records after the last one that was given out, up to the `following` one."""
        for _ in range(_LOOKS):
            yield from self._in_all_files(following)
            if following is None or self.seq + 1 >= following.seq:
                return
            time.sleep(_LOOK_AGAIN_S)
        # An old log is given to a new sink: it begins where it begins.
        if self.seq and following is not None:
            yield self._gap_before(following)

    def _gap_before(self, following: AccessRecord) -> Entry:
        gap = AccessRecord(
            time=now(), seq=following.seq - 1, volume=following.volume, op="gap", result=OK, us=0,
            reason=REMOVED, lost=following.seq - self.seq - 1,
        )  # fmt: skip
        self.seq = gap.seq
        return encode(gap), gap

    def _in_all_files(self, following: AccessRecord | None) -> Iterator[Entry]:
        with opened([self._path], with_rotated=True) as sections:
            firsts = [section.first() for section in sections]
            for section, after in zip(sections, [*firsts[1:], None], strict=True):
                if after is not None and after.seq <= self.seq + 1:
                    continue
                for batch in section.batches(Skipped()):
                    lines = batch.block.split(b"\n")
                    for line, record in zip(lines, batch.records, strict=True):
                        if record is None or record.seq <= self.seq:
                            continue
                        if following is not None and record.seq >= following.seq:
                            return
                        self.seq = record.seq
                        yield line, record
