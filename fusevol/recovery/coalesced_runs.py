"""Runs: reads or writes of one handle for one record, 128 bytes each.

    word 0   state: which of the two accounts counts, and how often it has changed; 0 for no run
    word 1   number of the record that is being written of it; 0 while none is
    word 2   handle number and code of the operation
    word 3   position of the first one
    word 4   when that began, in nanoseconds since the epoch
    then     two accounts of five words: bytes asked for, bytes done, operations, microseconds, and
             when the last one ended

An operation is added to the account that does not count, and made to count by the one store to the
state. Its entry in the journal says which state that is, so that a successor knows whether it was
added. A run has the place that belongs to the open entry of its handle.
"""

import errno
import os
from dataclasses import dataclass
from typing import Final

from fusevol.recovery.open_handles import FILE, OpenEntries, OpenEntry
from fusevol.recovery.region import OPENS, RUNS, RUNS_END, WORD, Region

_SEQ: Final = 1
_WHAT: Final = 2
_OFFSET: Final = 3
_SINCE: Final = 4
_ACCOUNTS: Final = (5, 10)
_CODE_BITS: Final = 8


def place_of(at: int) -> int:
    """Return the place of the run of a handle whose open entry is at `at`; a word number."""
    return RUNS + (at - OPENS) // 2


@dataclass(slots=True)
class CoalescedRun:
    """A run that an earlier worker has left.

    Attributes:
        opened: the handle.
        place: where it is.
        code: of the operation, as in the journal.
        offset: of the first one, in bytes.
        since_ns, time_ns: beginning of the first and end of the last one, since the epoch.
        asked, done: bytes.
        count: how many operations.
        us: microseconds that they took.
    """

    opened: OpenEntry
    place: int
    code: int
    offset: int
    since_ns: int
    asked: int
    done: int
    count: int
    us: int
    time_ns: int


class RunEntries:
    """The runs of a region. Places are word numbers."""

    def __init__(self, region: Region) -> None:
        self.words = region.words
        self._region = region
        self._changes = 0

    def next_state(self) -> int:
        """Return a state that differs from all before it and counts the first account next."""
        self._changes += 2
        return self._changes

    def begin(self, place: int, fh: int, code: int, offset: int, since_ns: int) -> None:
        """Note what a run is about; it is none before its state is stored."""
        words = self.words
        words[place + _SEQ] = 0
        words[place + _WHAT] = fh << _CODE_BITS | code
        words[place + _OFFSET] = offset
        words[place + _SINCE] = since_ns

    def account(
        self, place: int, state: int, asked: int, done: int, count: int, us: int, time_ns: int
    ) -> None:
        """Write the account that counts when `state` is stored."""
        words = self.words
        at = place + _ACCOUNTS[state & 1]
        words[at] = asked
        words[at + 1] = done
        words[at + 2] = count
        words[at + 3] = us
        words[at + 4] = time_ns

    def writing(self, place: int, seq: int) -> None:
        """Note that its record is about to be written under number `seq`."""
        self.words[place + _SEQ] = seq

    def end(self, place: int) -> None:
        """Note that its record was written."""
        self.words[place] = 0

    def pending(self, last_seq: int) -> list[CoalescedRun]:
        """Return the runs of an earlier worker that have no record, the oldest first.

        Args:
            last_seq: number of the newest record in the log.
        """
        if not self._are_any():
            return []
        opened = OpenEntries(self._region).load()
        runs = [run for kept in opened if (run := self._pending(kept, last_seq)) is not None]
        return sorted(runs, key=lambda run: run.time_ns)

    def _are_any(self) -> bool:
        """Return whether there ever were any; to read a hole would fill it."""
        try:
            return os.lseek(self._region.fd, RUNS * WORD, os.SEEK_DATA) < RUNS_END * WORD
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return False

    def _pending(self, kept: OpenEntry, last_seq: int) -> CoalescedRun | None:
        words, place = self.words, place_of(kept.at)
        state = words[place]
        fh, code = divmod(words[place + _WHAT], 1 << _CODE_BITS)
        if not state or kept.kind != FILE or fh != kept.fh:
            return None
        if 0 < words[place + _SEQ] <= last_seq:
            self.end(place)
            return None
        at = place + _ACCOUNTS[state & 1]
        account = words[at : at + 5].tolist()
        return CoalescedRun(
            kept, place, code, words[place + _OFFSET], words[place + _SINCE], *account
        )
