"""Writes access records: one line, one write(2), before the client gets its answer.

A loss is never silent. If a record cannot be written, the policy decides: `continue` lets the
operation go on, counts the loss and writes a `gap` record as soon as writing works again; `deny`
makes room for a record before each operation and refuses the operation if there is none.
"""

import array
import errno
import fcntl
import logging
import os
import stat
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Final

from fusevol.accesslog.bounds import LONGEST_LINE_BYTES, fitting
from fusevol.accesslog.chain import keys, sealer
from fusevol.accesslog.formats import encoder
from fusevol.accesslog.lines import MAX_LINE_BYTES
from fusevol.accesslog.log_end import end_of_file, end_of_log
from fusevol.accesslog.names import encode_name
from fusevol.accesslog.record import OK, AccessRecord
from fusevol.accesslog.record import encode as encode_json
from fusevol.accesslog.times import Timestamps
from fusevol.config import STDOUT_LOG, MountConfig
from fusevol.errors import FusevolError, NotFoundError, NotPermittedError
from fusevol.linux.files import reserve
from fusevol.model import OnLogFailure

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_RESERVE_RECORDS: Final = 4
"""For how many more records than are needed room is made behind the end of the log, under `deny`:
most are a two-hundredth of the largest."""
_RETRY_NS: Final = 250_000_000
"""How often writing is tried again after a failure, so that a full disk does not cost a failing
system call per operation."""

_UNBOUNDED: Final = ("source", "filter", "reason")
"""Keys of events whose values nothing else bounds."""

# What outlives the writer, one word each.
_FD: Final = 0
"""Descriptor of the log, plus one; 0 while there is none."""
_SEQ: Final = 1
"""`next_seq`."""
_LOST: Final = 2
"""`lost`, the errno of its cause, and the time of the first loss in nanoseconds."""
_LOST_ERRNO: Final = 3
_LOST_SINCE: Final = 4
_BYTES: Final = 5
"""Bytes written in all, records written in all, and operations that got no record."""
_RECORDS: Final = 6
_UNRECORDED: Final = 7
_CELLS: Final = 40


class LogWriter:
    """The access log of one volume. One thread only.

    Attributes:
        admit: raises OSError EIO if an operation must be refused now; None under `continue`. It
            takes the number of operations that were admitted before and have no record yet.
        lost: operations without a record since the last `gap` record.
        next_seq: number of the next record.
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

        A new file is made with mode 0600.

        Args:
            cells: 40 words of 64 bits that outlive this writer. Where a writer before this one
                has left its own, the log goes on as if there had been no change.
            encode: makes a line of a record, without the newline.
            chain: makes the lines instead, so that each has a hash.

        Raises:
            NotFoundError, NotPermittedError, FusevolError: it cannot be opened or is in use.
        """
        self.path = path
        self._chain = chain
        self._encode = encode if chain is None else chain.encode
        self._volume = encode_name(os.fsencode(volume))
        self._cells = memoryview(array.array("Q", bytes(8 * _CELLS))) if cells is None else cells
        self.lost = self._cells[_LOST]
        self._bytes, self._records = self._cells[_BYTES], self._cells[_RECORDS]
        self._timestamps = Timestamps()
        self._retry_ns = 0
        self._reserved = 0
        self._torn = False
        self.next_seq = 1
        self._fd = self._cells[_FD] - 1
        self.admit: Callable[[int], None] | None = None
        if on_failure is OnLogFailure.DENY:
            self.admit = self._admit
        if self._fd >= 0:
            self._go_on()
        elif path == STDOUT_LOG:
            self._use(os.dup(1))
        else:
            self._use(self._open())
            self.next_seq = self._last_seq(path) + 1

    @classmethod
    def of(cls, config: MountConfig, cells: "memoryview | None" = None) -> "LogWriter":
        """Return the writer of a mount's log.

        Raises:
            NotFoundError, NotPermittedError, FusevolError: the log cannot be opened or chained.
        """
        logging_ = config.logging
        chain = None
        if logging_.chain:
            try:
                name = sealer.volume_in_records(config.name)
                chain = sealer.Sealer(keys.load_or_make(), config.log, name)
            except FusevolError as error:
                # A mount that is in use goes on, as it does when its log cannot be written.
                is_taken_over = cells is not None and cells[_FD] > 0
                if config.on_log_failure is OnLogFailure.DENY or not is_taken_over:
                    raise
                logger.error("access log %s goes on without hashes: %s", config.log, error)
        return cls(
            config.log, config.name, config.on_log_failure, cells, encoder(logging_.format), chain
        )

    def _use(self, fd: int) -> None:
        self._fd = fd
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._cells[_FD] = fd + 1

    def _go_on(self) -> None:
        """Go on where another writer ended, maybe within a record."""
        self._use(self._fd)
        self.next_seq = max(1, self._cells[_SEQ])
        if self._regular and self.path != STDOUT_LOG:
            _cut_torn_line(self._fd)
            number = self._last_seq(f"/proc/self/fd/{self._fd}")
            self.next_seq = max(self.next_seq, number + 1)

    def _last_seq(self, current: str) -> int:
        """Return the number of the newest record; the chain, if there is one, goes on behind it.

        Args:
            current: the way to the file that is being written.
        """
        end = end_of_log(self.path, current, self._volume)
        if self._chain is not None:
            return self._chain.go_on(end)
        sealer.stop(self.path, end)
        return end.seq

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
            record.us = (perf_counter_ns() - started_ns) // 1000
        if self.lost:
            operations = record.count or 1
            self.lost += operations
            self._cells[_LOST] = self.lost
            self._cells[_UNRECORDED] += operations
            return
        record.seq = self.next_seq
        line = self._encode(record) + b"\n"
        try:
            written = os.write(self._fd, line)
        except OSError as error:
            self._failed(error, record.count or 1)
            return
        if written != len(line):
            self._take_back(written, record.count or 1)
            return
        cells = self._cells
        self.next_seq = cells[_SEQ] = record.seq + 1
        self._reserved -= written
        self._bytes = cells[_BYTES] = self._bytes + written
        self._records = cells[_RECORDS] = self._records + 1

    def catch_up(self) -> None:
        """Report what is `lost`, if writing works again; to be called before `append` then."""
        if self.lost and perf_counter_ns() >= self._retry_ns:
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
        if chain is None or self.lost or self.next_seq - 1 == chain.signed_seq:
            return
        number = self.next_seq
        signature = chain.signature(number - 1)
        if signature is None:
            return
        self.event(AccessRecord(op="checkpoint", result=OK, signature=signature))
        if self.next_seq > number:
            chain.keep(number)

    def reopen(self) -> None:
        """Open the file anew, after it was renamed (logrotate); keep the old one if that fails."""
        if self.path == STDOUT_LOG or self._is_at_its_path():
            return
        self.checkpoint()
        try:
            fd = self._open()
        except FusevolError as error:
            logger.error("%s; still writing to the old file", error)
            return
        old = self._fd
        self._use(fd)
        os.close(old)
        self._reserved = 0
        self._torn = False

    def _is_at_its_path(self) -> bool:
        """Tell whether the file was not renamed; its own lock would keep it from being reopened."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        except OSError:
            return False

    def close(self) -> None:
        """Close the log; a loss that could not be reported in it is reported in the messages."""
        if self.lost:
            self._report_gap()
        if self.lost:
            logger.error(
                "access log %s: %d operations since %s were not recorded (%s)",
                self.path, self.lost, self._lost_since(), self._lost_why(),
            )  # fmt: skip
        self.checkpoint()
        self._cells[_FD] = 0
        os.close(self._fd)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        try:
            fd = os.open(self.path, flags, 0o600)
        except FileNotFoundError:
            raise NotFoundError(
                f"cannot open access log {self.path}: its directory does not exist; create it"
            ) from None
        except PermissionError:
            raise NotPermittedError(
                f"cannot open access log {self.path}: permission denied; choose another --log"
            ) from None
        except OSError as error:
            raise FusevolError(f"cannot open access log {self.path}: {error.strerror}") from None
        os.set_blocking(fd, True)
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        if self._regular:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise FusevolError(
                    f"access log {self.path} is in use by another mount; give each its own --log"
                ) from None
            self._end_torn_line(fd)
        return fd

    def _end_torn_line(self, fd: int) -> None:
        """End a line that a crash or a full disk left half-written."""
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            try:
                os.write(fd, b"\n")
            except OSError as error:
                raise FusevolError(
                    f"cannot write access log {self.path}: {error.strerror}"
                ) from None

    def _take_back(self, written: int, operations: int) -> None:
        """Remove the part of a record that was written, for a line is whole or not there."""
        if self._regular:
            try:
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            except OSError:
                self._torn = True
        else:
            self._torn = True
        self._failed(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), operations)

    def _failed(self, error: OSError, operations: int) -> None:
        if self._chain is not None:
            self._chain.take_back()
        logger.error(
            "access log %s cannot be written (%s); operations go unrecorded", self.path,
            error.strerror,
        )  # fmt: skip
        self._retry_ns = perf_counter_ns() + _RETRY_NS
        self._cells[_LOST_ERRNO] = error.errno or errno.EIO
        self._cells[_LOST_SINCE] = time_ns()
        self.lost = self._cells[_LOST] = operations
        self._cells[_UNRECORDED] += operations

    def _lost_since(self) -> str:
        return self._timestamps.of(self._cells[_LOST_SINCE])

    def _lost_why(self) -> str:
        return os.strerror(self._cells[_LOST_ERRNO])

    def _report_gap(self) -> None:
        """Write the `gap` record; nothing is `lost` any more if that works."""
        gap = AccessRecord(
            time=self._timestamps.of(time_ns()), seq=self.next_seq, volume=self._volume, op="gap",
            result=OK, us=0, reason=self._lost_why(), lost=self.lost, since=self._lost_since(),
        )  # fmt: skip
        line = self._line_of_gap(gap)
        try:
            written = os.write(self._fd, line)
        except OSError:
            written = -1
        if written == len(line):
            logger.warning(
                "access log %s works again; %d operations lost", self.path, self.lost
            )  # fmt: skip
            self._torn = False
            self.lost = self._cells[_LOST] = 0
            self.next_seq = self._cells[_SEQ] = gap.seq + 1
            self._reserved -= written
            self._bytes = self._cells[_BYTES] = self._bytes + written
            self._records = self._cells[_RECORDS] = self._records + 1
            return
        if self._chain is not None:
            self._chain.take_back()
        self._retry_ns = perf_counter_ns() + _RETRY_NS
        if written > 0:
            self._torn = True
            if self._regular:
                try:
                    os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
                    self._torn = False
                except OSError:
                    pass

    def _line_of_gap(self, gap: AccessRecord) -> bytes:
        if not self._torn:
            return self._encode(gap) + b"\n"
        if self._chain is None:
            return b"\n" + self._encode(gap) + b"\n"
        torn = end_of_file(f"/proc/self/fd/{self._fd}").after
        return b"\n" + self._chain.encode_behind(gap, torn) + b"\n"

    def _admit(self, pending: int) -> None:
        """Make sure that a record can be written before the operation has any effect."""
        needed = (pending + 1) * LONGEST_LINE_BYTES
        if self._reserved >= needed and not self.lost:
            return
        self.catch_up()
        if self.lost:
            raise OSError(errno.EIO, "access log cannot be written")
        self._reserve(needed + _RESERVE_RECORDS * LONGEST_LINE_BYTES)

    def _reserve(self, length: int) -> None:
        if self._regular:
            size = os.fstat(self._fd).st_size
            try:
                reserve(self._fd, size, length)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise OSError(errno.EIO, "access log cannot be written") from error
                self._regular = False
        self._reserved = length


def _cut_torn_line(fd: int) -> None:
    """Remove what a writer that was killed wrote of its last record: that is written again."""
    size = os.fstat(fd).st_size
    # The last line of a log that was begun before records had a bound may be a longer one.
    for length in (LONGEST_LINE_BYTES, MAX_LINE_BYTES):
        tail = os.pread(fd, length, max(0, size - length))
        torn = len(tail) - tail.rfind(b"\n") - 1
        if torn < len(tail) or size == len(tail):
            os.ftruncate(fd, size - torn)
            return
