"""Coalesces consecutive reads or writes on a handle into one record (`coalesce=SECONDS`).

A run ends, and its record is written, before the record of whatever ends it: another operation on
the handle, one that fails, one at another place, a change of the file's length, the time limit, the
end of the mount, or another worker. Until then it is kept in the recovery state
(`recovery.coalesced_runs`), so that it is recorded even if its worker is killed.
"""

import logging
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Final

from fusevol.record.record import OK, AccessRecord
from fusevol.record.times import Timestamps
from fusevol.recovery.coalesced_runs import CoalescedRun, RunEntries, place_of
from fusevol.recovery.counters import Counters
from fusevol.recovery.journal import COALESCING, CODES, ERRNO, RECORDED, RUN, SEQ, Entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusevol.inodes.objects import Opened
    from fusevol.recording.finish import Finish
    from fusevol.recording.writer import LogWriter

logger = logging.getLogger(__name__)

COALESCED: Final = frozenset(("read", "write"))
ENDING: Final = frozenset(("flush", "fsync", "release", "setattr"))
"""Operations that end a run, besides reads and writes."""

_OPS: Final = {code: op for op, code in CODES.items()}


class _Running:
    """A run that goes on; `record` is that of its first operation."""

    __slots__ = (
        "asked", "began_ns", "code", "count", "done", "end", "place", "record", "since_ns",
        "state", "time_ns", "us",
    )  # fmt: skip

    def __init__(self, place: int, code: int, record: AccessRecord, began_ns: int) -> None:
        assert record.offset is not None
        self.place = place
        self.code = code
        self.record = record
        self.began_ns = began_ns
        self.end = record.offset
        self.asked = self.done = self.count = self.us = self.state = 0
        self.since_ns = self.time_ns = 0


class Coalescer:
    """The runs of one mount."""

    def __init__(
        self,
        log: "LogWriter",
        counters: Counters,
        entries: RunEntries,
        seconds: float,
        on_begun: "Callable[[], None]",
    ) -> None:
        """Prepare.

        Args:
            seconds: how long after its beginning a run ends at the latest.
            on_begun: called when a run begins: `end_due` is due after `seconds`.
        """
        self._log = log
        self._counters = counters
        self._entries = entries
        self._limit_ns = int(seconds * 1e9)
        self._running: dict[int, _Running] = {}
        """By handle number, the oldest first."""
        self._on_begun = on_begun
        self._timestamps = Timestamps()

    def coalescing(self, op: str, finish: "Finish") -> "Finish":
        """Return what finishes reads or writes, with the help of `finish` for those apart."""
        words, count = self._counters.words, self._counters.count
        running = self._running
        code = CODES[op]
        gathering, recorded = code | COALESCING, code | RECORDED
        reads = op == "read"

        def conclude_gathered(
            entry: Entry,
            record: AccessRecord | None,
            started: int,
            number: int,
            opened: "Opened | None" = None,
        ) -> None:
            at = entry.at
            if words[at] == recorded:
                return
            if number or record is None or opened is None or self._log.losses.count:
                if opened is not None:
                    self.end(opened.fh)
                finish(entry, record, started, number, opened)
                return
            now = perf_counter_ns()
            us = (now - started) // 1000
            done = record.bytes_read if reads else record.bytes_written
            run = running.get(opened.fh)
            if (
                run is None
                or run.end != record.offset
                or run.code != code
                or now - run.began_ns > self._limit_ns
            ):
                run = self._begin(opened, code, record, started, us)
            state = self._add(run, record.size or 0, done or 0, us)
            words[at + ERRNO] = 0
            words[at + SEQ] = state
            words[at + RUN] = run.place
            words[at] = gathering
            words[run.place] = run.state = state
            words[at] = recorded
            count(code, us, 0)

        return conclude_gathered

    def ending(self, finish: "Finish") -> "Finish":
        """Return what ends the runs that an operation ends, and then finishes it."""

        def conclude_after(
            entry: Entry,
            record: AccessRecord | None,
            started: int,
            number: int,
            opened: "Opened | None" = None,
        ) -> None:
            if opened is not None:
                self.end(opened.fh)
            elif record is not None and record.size is not None:
                self._end_those_of(record.ino)
            finish(entry, record, started, number, opened)

        return conclude_after

    def _begin(
        self, opened: "Opened", code: int, record: AccessRecord, started: int, us: int
    ) -> _Running:
        self.end(opened.fh)
        run = _Running(place_of(opened.at), code, record, started)
        run.since_ns = time_ns() - us * 1000
        run.state = self._entries.next_state()
        self._entries.begin(run.place, opened.fh, code, run.end, run.since_ns)
        self._running[opened.fh] = run
        self._on_begun()
        return run

    def _add(self, run: _Running, asked: int, done: int, us: int) -> int:
        """Add an operation to a run; return the state that makes it count."""
        run.asked += asked
        run.done += done
        run.end += done
        run.count += 1
        run.us += us
        run.time_ns = time_ns()
        state = (self._entries.next_state() | 1) ^ (run.state & 1)
        self._entries.account(run.place, state, run.asked, run.done, run.count, run.us, run.time_ns)
        return state

    def end(self, fh: int) -> None:
        """Write the record of the run of a handle, if there is one."""
        run = self._running.pop(fh, None)
        if run is None:
            return
        record = run.record
        record.size = run.asked
        if record.bytes_read is not None:
            record.bytes_read = run.done
        else:
            record.bytes_written = run.done
        if run.count > 1:
            record.count = run.count
            record.since = self._timestamps.of(run.since_ns)
        record.us = run.us
        record.time = self._timestamps.of(run.time_ns)
        self._write(run.place, record)

    def tell(self, run: CoalescedRun, volume: str, path: str | None) -> None:
        """Write the record of a run that an earlier worker has left.

        Args:
            volume: its name in the log.
            path: of the file, if that is known.
        """
        opened, op = run.opened, _OPS[run.code]
        is_read = op == "read"
        record = AccessRecord(
            self._timestamps.of(run.time_ns), -1, volume, op, path, opened.ino, OK, run.us,
            opened.uid, opened.gid, opened.pid, opened.comm, opened.container, opened.error,
            offset=run.offset, size=run.asked, bytes_read=run.done if is_read else None,
            bytes_written=None if is_read else run.done,
        )  # fmt: skip
        if run.count > 1:
            record.count = run.count
            record.since = self._timestamps.of(run.since_ns)
        self._write(run.place, record)

    def _write(self, place: int, record: AccessRecord) -> None:
        log, entries = self._log, self._entries
        try:
            if log.losses.count:
                log.catch_up()
            entries.writing(place, log.next_seq)
            log.append(record, 0)
        except Exception:
            logger.exception("a record of %s could not be written", record.op)
        entries.end(place)

    def end_all(self) -> None:
        """Write the records of all runs."""
        for fh in [*self._running]:
            self.end(fh)

    def _end_those_of(self, ino: int | None) -> None:
        for fh, run in [*self._running.items()]:
            if run.record.ino == ino:
                self.end(fh)

    def end_due(self, now: int) -> int | None:
        """End the runs whose time is over at `now`; return when the next one's is, if there is one.

        Both are of `time.perf_counter_ns()`.
        """
        for fh, run in [*self._running.items()]:
            due_ns = run.began_ns + self._limit_ns
            if due_ns > now:
                return due_ns
            self.end(fh)
        return None
