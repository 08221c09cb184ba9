"""Writes access records: one line, one write(2), before the client gets its answer.

A loss is never silent. If a record cannot be written, the policy decides: `continue` lets the
operation go on, counts the loss and writes a `gap` record as soon as writing works again; `deny`
makes room for a record before each operation and refuses the operation if there is none.
"""

import array
import errno
import logging
import os
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Final

from fusevol.logs.log_end import LogEnd, end_of_file
from fusevol.model import OnLogFailure
from fusevol.names import encode_name
from fusevol.options.config import STDOUT_LOG
from fusevol.proof import sealer
from fusevol.record.bounds import LONGEST_LINE_BYTES, fitting
from fusevol.record.record import OK, AccessRecord
from fusevol.record.record import encode as encode_json
from fusevol.record.times import Timestamps
from fusevol.recording.continuation import continuation, first_in
from fusevol.recording.log_file import LogFile, cut_torn_line, open_to_write, why_not
from fusevol.recording.log_state import Known, LogState
from fusevol.recording.losses import Losses
from fusevol.recording.unlinked import bring_over, first_unnamed
from fusevol.recovery.log_cells import (
    BYTES,
    COUNT,
    DELETED_NS,
    FAULT,
    FD,
    NAMELESS,
    RECORDS,
    SEEN,
    SEQ,
    STATE_FD,
)

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_RESERVE_RECORDS: Final = 4
"""For how many more records than are needed room is made behind the end of the log, under `deny`:
most are a two-hundredth of the largest."""
_RETRY_NS: Final = 250_000_000
"""How often writing is tried again after a failure, so that a full disk does not cost a failing
system call per operation."""
_LOOK_NS: Final = 50_000_000
"""How often to look whether the file still has a name, while records are written."""
_HIDDEN_NS: Final = 1_000_000_000
"""How long to wait before a file at the log's path that cannot be opened is tried again."""

_UNBOUNDED: Final = ("source", "filter", "reason")
"""Keys of events whose values nothing else bounds."""


class LogWriter:
    """The access log of one volume. One thread only.

    Attributes:
        admit: raises OSError EIO if an operation must be refused now; None under `continue`. It
            takes the number of operations that were admitted before and have no record yet.
        losses: operations without a record since the last `gap` record.
        next_seq: number of the next record.
        on_written: called now and then when there are new records: `keep` is due soon.
    """

    def __init__(
        self,
        path: str,
        volume: str,
        on_failure: OnLogFailure,
        cells: "memoryview | None" = None,
        encode: "Callable[[AccessRecord], bytes]" = encode_json,
        chain: "sealer.Sealer | None" = None,
    ) -> None:
        """Open the log at `path` ("-" for stdout), and continue its `seq`.

        A new file is made with mode 0600. If it cannot be opened for a mount that is in use, as all
        its processes were killed, that is tried again and again.

        Args:
            cells: words of 64 bits that outlive this writer (`log_cells`). Where a writer before
                this one has left its own, the log goes on as if there had been no change.
            encode: makes a line of a record, without the newline.
            chain: makes the lines instead, so that each has a hash.

        Raises:
            NotFoundError, NotPermittedError, FusevolError: it cannot be opened or is in use.
        """
        self.path = path
        self._chain = chain
        self._encode = encode if chain is None else chain.encode
        self._volume = encode_name(os.fsencode(volume))
        self._cells = memoryview(array.array("Q", bytes(8 * COUNT))) if cells is None else cells
        self.losses = Losses(self._cells)
        self._bytes, self._records = self._cells[BYTES], self._cells[RECORDS]
        self._timestamps = Timestamps()
        self._retry_ns = 0
        self._reserved = 0
        self._torn = False
        self._look_ns = 0
        self._first = 0
        self._nameless = bool(self._cells[NAMELESS])
        self._stopped = self._nameless
        self._state = LogState.none(path)
        self._has_state = False
        self.on_written: Callable[[], None] = _nothing
        self.next_seq = 1
        self._file = LogFile.missing(path)
        self.admit: Callable[[int], None] | None = None
        if on_failure is OnLogFailure.DENY:
            self.admit = self._admit
        inherited = self._cells[FD] - 1
        if inherited >= 0:
            self._go_on(inherited)
        elif path == STDOUT_LOG:
            self._use(os.dup(1))
        else:
            self._begin()

    def _use(self, fd: int) -> None:
        self._file = LogFile(self.path, fd)
        self._cells[FD] = fd + 1

    def _begin(self) -> None:
        """Open the log for a new mount, or for one whose processes were all killed."""
        try:
            self._open()
        except OSError as error:
            number = error.errno or errno.EIO
            if not self._cells[SEQ]:
                self._state.close()
                raise why_not(self.path, number) from None
            self._begin_without(number)
        except BaseException:
            self._state.close()
            raise

    def _open(self) -> None:
        """Open what is kept of the log, and the log; OSError if that fails."""
        if not self._has_state and (not os.path.exists(self.path) or os.path.isfile(self.path)):
            self._open_state()
        self._use(open_to_write(self.path))
        self._nameless = self._stopped = False
        self._cells[NAMELESS] = self._cells[FAULT] = 0
        self._find_end(self.path)
        self._cells[SEEN] = self.next_seq

    def _open_state(self) -> None:
        self._state = LogState.open(self.path, self._cells[STATE_FD] - 1)
        self._cells[STATE_FD] = self._state.fd + 1
        self._has_state = True

    def _begin_without(self, number: int) -> None:
        """Serve a mount that is in use although its log cannot be opened, because of errno."""
        cells = self._cells
        known = self._state.load()
        self._file = LogFile.missing(self.path)
        self._nameless = self._stopped = True
        self.losses.resume()
        self.next_seq = cells[SEQ] = max(known.seq + 1, cells[SEQ])
        self._first = known.first
        if self._chain is not None:
            self._chain.go_on(LogEnd(known.seq, known.hash, b""))
        cells[NAMELESS] = 1
        self._not_begun_anew(number, is_nameless=True)

    def _begin_late(self) -> None:
        """Open the log that could not be opened when this writer began; OSError if that fails."""
        losses = self.losses
        before = losses.count, losses.errno, losses.since_ns
        self._open()
        if before[0] > losses.count:
            losses.restore(*before)
            self._stopped = True
            self.keep()

    def _go_on(self, fd: int) -> None:
        """Go on where another writer ended, maybe within a record."""
        self._use(fd)
        self.next_seq = max(1, self._cells[SEQ])
        if self._file.is_file and self.path != STDOUT_LOG:
            self._open_state()
            cut_torn_line(fd)
            self._find_end(self._file.way)

    def _find_end(self, current: str) -> None:
        """Find the number of the newest record, and what was lost; a chain goes on behind it.

        Args:
            current: the way to the file that is being written.
        """
        cells = self._cells
        found = continuation(
            self.path, self._volume, self._file, current, self._state.load(), cells
        )
        self.losses.restore(found.lost, found.errno, found.since_ns)
        self._stopped = self._stopped or found.lost > 0
        if self._chain is not None:
            number = self._chain.go_on(found.end)
        else:
            number = found.end.seq
            sealer.stop(self.path, found.end)
        self.next_seq = cells[SEQ] = max(number, found.newest) + 1
        self._first = found.first or self.next_seq
        self.keep()

    def keep(self) -> None:
        """Keep what has to be known of the log whatever becomes of its files."""
        losses = self.losses
        self._state.save(
            Known(
                self.next_seq - 1, self._first, losses.count, losses.errno, losses.since_ns,
                self._chain.newest if self._chain is not None else b"",
            )
        )  # fmt: skip

    def append(self, record: AccessRecord, started_ns: int) -> None:
        """Complete `record` with number, time and duration, and write it.

        Never raises: what cannot be written is counted; `catch_up` reports it by a `gap` record.

        Args:
            record: one that has its time keeps it, and its duration. It stands for as many
                operations as its `count` says.
            started_ns: `time.perf_counter_ns()` at the beginning of the operation.
        """
        if not record.time:
            record.time = self._timestamps.of(time_ns())
            now = perf_counter_ns()
            record.us = (now - started_ns) // 1000
            if now >= self._look_ns:
                self._look(now)
        if self._stopped:
            self._lose(record.count or 1, self._cells[FAULT])
            return
        record.seq = self.next_seq
        line = self._encode(record) + b"\n"
        try:
            written = os.write(self._file.fd, line)
        except OSError as error:
            self._failed(error, record.count or 1)
            return
        if written != len(line):
            self._take_back(written, record.count or 1)
            return
        cells = self._cells
        self.next_seq = cells[SEQ] = record.seq + 1
        self._reserved -= written
        self._bytes = cells[BYTES] = self._bytes + written
        self._records = cells[RECORDS] = self._records + 1

    def catch_up(self) -> None:
        """Report `losses`, if writing works again; to be called before `append` then."""
        if self._stopped and (now := perf_counter_ns()) >= self._retry_ns:
            self._look(now)
            if self.losses.count and not self._nameless:
                self._report_gap()

    def event(self, record: AccessRecord) -> None:
        """Write one of fusevol's own records: mount, unmount, restart."""
        record.volume = self._volume
        for key in _UNBOUNDED:
            if (text := getattr(record, key)) is not None:
                setattr(record, key, fitting(text))
        self.catch_up()
        self.append(record, perf_counter_ns())

    @property
    def is_chained(self) -> bool:
        """Whether `checkpoint` has to be called now and then."""
        return self._chain is not None

    def checkpoint(self) -> None:
        """Sign what is in the log, if it is chained and anything came to it since the last time."""
        chain = self._chain
        if chain is None or self._stopped or self.next_seq - 1 == chain.signed_seq:
            return
        number = self.next_seq
        signature = chain.signature(number - 1)
        if signature is None:
            return
        self.event(AccessRecord(op="checkpoint", result=OK, signature=signature))
        if self.next_seq > number:
            chain.keep(number)

    def reopen(self) -> None:
        """Reopen the file, after it was renamed (logrotate); keep the old one if that fails."""
        if self.path == STDOUT_LOG:
            return
        if self._file.is_at_its_path():
            self._cells[FAULT] = 0
            return
        self.checkpoint()
        # What was written just now may have found that the file is gone.
        if not self._file.is_at_its_path():
            self._begin_anew()

    def _look(self, now: int) -> None:
        """See whether the file still has a name; if not, go on in a new one."""
        self._look_ns = now + _LOOK_NS
        self.on_written()
        if not self._file.is_file or self.path == STDOUT_LOG:
            return
        if self._file.is_nameless():
            if not self._nameless or now >= self._retry_ns:
                self._begin_anew()
        elif self._file.is_hidden():
            self._look_ns = now + _HIDDEN_NS
            self._begin_anew()
        else:
            self._cells[SEEN] = self.next_seq

    def _begin_anew(self) -> None:
        """Go on in the file at the log's path, which another has taken the place of."""
        is_nameless = self._file.is_nameless()
        try:
            if self._file.fd < 0:
                self._begin_late()
                return
            fd = open_to_write(self.path)
        except OSError as error:
            self._not_begun_anew(error.errno or errno.EIO, is_nameless)
            return
        old, was_counted = self._file.fd, self._nameless
        self._nameless = False
        self._cells[NAMELESS] = self._cells[FAULT] = 0
        self._stopped = self.losses.count > 0
        if is_nameless and not was_counted:
            self._bring_over(fd)
        self._use(fd)
        os.close(old)
        self._reserved = 0
        self._torn = False
        self._first = first_in(self._file, self.path) or self.next_seq
        self._cells[SEEN] = self.next_seq
        self.keep()

    def _not_begun_anew(self, number: int, is_nameless: bool) -> None:
        if self._cells[FAULT] != number:
            rest = (
                "operations go unrecorded, as there is no other file" if is_nameless
                else "still writing to the old file"
            )  # fmt: skip
            logger.error("%s; %s", why_not(self.path, number), rest)
        self._cells[FAULT] = number
        self._retry_ns = perf_counter_ns() + _RETRY_NS
        if is_nameless and not self._nameless:
            self._cells[DELETED_NS] = time_ns()
            unnamed = self.next_seq - self._first_unnamed()
            self._nameless = self._stopped = True
            self._cells[NAMELESS] = 1
            if unnamed:
                self._lose(unnamed, number)

    def _first_unnamed(self) -> int:
        seen = self._cells[SEEN] or self.next_seq
        return first_unnamed(self.path, self._volume, self._file.way, seen)

    def _bring_over(self, fd: int) -> None:
        """Write to `fd` what was written to a file since it has lost its name."""
        self._cells[DELETED_NS] = time_ns()
        begin = self._first_unnamed()
        following, number = bring_over(self._file.way, begin, fd)
        logger.warning(
            "access log %s was deleted while in use; started a new file with the %d records "
            "written since", self.path, following - begin,
        )  # fmt: skip
        if following < self.next_seq:
            self._lose(self.next_seq - following, number)

    def close(self) -> None:
        """Close the log; a loss that could not be reported in it is reported by the next writer."""
        self._look(perf_counter_ns())
        if self.losses.count and not self._nameless:
            self._report_gap()
        if self.losses.count:
            logger.error(
                "access log %s: %d operations since %s were not recorded (%s)",
                self.path, self.losses.count, self.losses.since() or "an unknown time",
                self.losses.why(),
            )  # fmt: skip
        self.checkpoint()
        self.keep()
        self._state.close()
        self._cells[FD] = self._cells[STATE_FD] = 0
        if self._file.fd >= 0:
            os.close(self._file.fd)

    def _take_back(self, written: int, operations: int) -> None:
        """Remove the part of a record that was written, for a line is whole or not there."""
        if not self._file.take_back(written):
            self._torn = True
        self._failed(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), operations)

    def _failed(self, error: OSError, operations: int) -> None:
        if self._chain is not None:
            self._chain.take_back()
        logger.error(
            "access log %s cannot be written (%s); operations go unrecorded", self.path,
            error.strerror,
        )  # fmt: skip
        self._lose(operations, error.errno or errno.EIO)

    def _lose(self, operations: int, number: int) -> None:
        """Count operations that get no record, because of errno `number`."""
        if not self.losses.count:
            self._retry_ns = perf_counter_ns() + _RETRY_NS
        self._stopped = True
        self.losses.add(operations, number)
        self.keep()

    def _report_gap(self) -> None:
        """Write the `gap` record; there are no `losses` any more if that works."""
        losses = self.losses
        gap = AccessRecord(
            time=self._timestamps.of(time_ns()), seq=self.next_seq, volume=self._volume, op="gap",
            result=OK, us=0, reason=losses.why(), lost=losses.count, since=losses.since(),
        )  # fmt: skip
        line = self._line_of_gap(gap)
        try:
            written = os.write(self._file.fd, line)
        except OSError:
            written = -1
        if written == len(line):
            logger.warning(
                "access log %s works again; %d operations lost", self.path, losses.count
            )  # fmt: skip
            self._torn = self._stopped = False
            losses.clear()
            self.next_seq = self._cells[SEQ] = gap.seq + 1
            self._reserved -= written
            self._bytes = self._cells[BYTES] = self._bytes + written
            self._records = self._cells[RECORDS] = self._records + 1
            self.keep()
            return
        if self._chain is not None:
            self._chain.take_back()
        self._retry_ns = perf_counter_ns() + _RETRY_NS
        if written > 0 and not self._file.take_back(written):
            self._torn = True

    def _line_of_gap(self, gap: AccessRecord) -> bytes:
        if not self._torn:
            return self._encode(gap) + b"\n"
        if self._chain is None:
            return b"\n" + self._encode(gap) + b"\n"
        torn = end_of_file(self._file.way).after
        return b"\n" + self._chain.encode_behind(gap, torn) + b"\n"

    def _admit(self, pending: int) -> None:
        """Make sure that a record can be written before the operation has any effect."""
        if (now := perf_counter_ns()) >= self._look_ns:
            self._look(now)
        needed = (pending + 1) * LONGEST_LINE_BYTES
        if self._reserved >= needed and not self._stopped:
            return
        self.catch_up()
        if self._stopped:
            raise OSError(errno.EIO, "access log cannot be written")
        length = needed + _RESERVE_RECORDS * LONGEST_LINE_BYTES
        self._file.reserve(length)
        self._reserved = length


def _nothing() -> None:
    pass
