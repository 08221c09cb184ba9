"""The journal: what the worker is doing right now, one entry for each request it has taken up.

    word 0   number of the operation, and how far it is; 0 where there is nothing
    word 1   thread id of the caller, or handle number where the kernel reports no caller
    word 2   position, for reads, writes and listings
    word 3   errno of its result
    word 4   what was there before, and word 5
    word 6   handle number that it gave
    word 7   XATTR_CREATE or XATTR_REPLACE, added by the keeper
    word 8   number of its record, or state of the run that it is part of
    word 9   place of that run

An entry stands from before the effect until after the reply. When the worker dies, the keeper asks
the kernel which requests are unanswered and keeps the entries of these (`Journal.settle`); the
successor goes on with each where it was, so that nothing takes place or is recorded twice. The
phases, who enters them, and what a successor does with a request that it finds there:

    STARTED    fuse.middleware, before anything else    does all of it
      |        (in place, or `Journal.begin`)
    INTENDED   volume.idempotency, before an effect     compares what is there with what was there
      |        that must not take place twice           before: does it, or takes it for done
      |        (`Entry.intend`)
    DONE       volume.data, .directories, .namespace    does not do it again; makes the reply of
      |        and .xattrs; fuse.open_files and         what is there, that to an open by
      |        .open_directories for releases           `Entry.fh`
      |        (`Entry.done`)
      |
      +-> LOGGING     recording.recorder, before it     `Entry.settle`: RECORDED if the log has got
      |     |         writes the record                 as far as its number; else DONE, or STARTED
      |     |                                           if it has failed
      +-> COALESCING  recording.coalescing, before      `Entry.settle`: the same, if the run has got
      |     |         the run counts it                 as far as its state
      |     |
    RECORDED   recording.recorder and .coalescing,      fails again if it has failed
      |        when its record, if it gets one, is      (`Entry.repeat_failure`); else replies as
      |        in the log or part of a run              if DONE. Records and counts nothing
    0          fuse.requestloop, when the reply has     never sees it
               left (in place, or `Journal.answered`)

Any may be left out. What fails goes from any to LOGGING or RECORDED. What a phase makes valid is
written before it. Where a request is served in place, middleware, recorder, coalescing and loop
write the words themselves, which saves a call at each phase.

A thread has one request at a time, so its id identifies its requests. Requests on a handle that
are alike in all that is kept here may be exchanged for one another.
"""

import os
from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from fusevol.record.record import OPERATIONS
from fusevol.recovery.region import JOURNAL, Region

STARTED: Final = 1 << 8
INTENDED: Final = 2 << 8
"""What was there before is noted; the effect may have taken place."""
DONE: Final = 3 << 8
"""The effect has taken place."""
LOGGING: Final = 4 << 8
"""Its result is noted; the record is in the log if the log has got as far as its number."""
RECORDED: Final = 5 << 8
"""Its result is noted, and the record is in the log if it gets one."""
COALESCING: Final = 6 << 8
"""Its result is noted; it is part of a run if the run has got as far as its state."""

WHO: Final = 1
WHERE: Final = 2
ERRNO: Final = 3
SEQ: Final = 8
RUN: Final = 9
_EVIDENCE: Final = 4
_FH: Final = 6
_XATTR_FLAGS: Final = 7

_NOBODY: Final = 1 << 62
_STRIDE: Final = 16
_ENTRIES: Final = 160
"""More than pyfuse3 has tasks."""
_CODE: Final = 0xFF
CODES: Final = {op: number for number, op in enumerate(OPERATIONS, 1)}
"""Operation -> its code."""
POSITIONED: Final = frozenset(("read", "write", "readdir"))
"""Operations whose requests have a position."""
_POSITIONED_CODES: Final = frozenset(CODES[op] for op in POSITIONED)
INLINE: Final = JOURNAL
"""Place of the entry of what is done without waiting: one request at a time."""


class Key(NamedTuple):
    """What identifies a request: code of the operation, caller or handle, position or 0."""

    code: int
    who: int
    where: int = 0


class Entry:
    """One entry.

    Attributes:
        at: its place, a word number.
    """

    __slots__ = ("_words", "at")

    def __init__(self, words: memoryview, at: int) -> None:
        self._words = words
        self.at = at

    @property
    def phase(self) -> int:
        """How far it is: STARTED and so on."""
        return self._words[self.at] & ~_CODE

    @property
    def is_done(self) -> bool:
        """Whether the effect has taken place."""
        return self._words[self.at] & ~_CODE >= DONE

    @property
    def is_recorded(self) -> bool:
        """Whether it is counted and its record, if it gets one, is in the log."""
        return self._words[self.at] & ~_CODE == RECORDED

    @property
    def key(self) -> Key:
        """What request it belongs to."""
        at = self.at
        words = self._words
        code = words[at] & _CODE
        return Key(code, words[at + WHO], words[at + WHERE] if code in _POSITIONED_CODES else 0)

    @property
    def errno(self) -> int:
        """Its result, once LOGGING; 0 is success."""
        return self._words[self.at + ERRNO]

    @property
    def fh(self) -> int:
        """The handle number that it gave, once DONE; 0 for none."""
        return self._words[self.at + _FH]

    @property
    def xattr_flags(self) -> int:
        """Flags of the setxattr(2) of an unanswered request."""
        return self._words[self.at + _XATTR_FLAGS]

    @property
    def evidence(self) -> tuple[int, int]:
        """What `intend` noted."""
        return self._words[self.at + _EVIDENCE], self._words[self.at + _EVIDENCE + 1]

    def intend(self, before: int, more: int = 0) -> None:
        """Note what is there before the effect takes place."""
        at, words = self.at, self._words
        words[at + _EVIDENCE] = before
        words[at + _EVIDENCE + 1] = more
        words[at + _FH] = 0
        words[at] = words[at] & _CODE | INTENDED

    def done(self, fh: int = 0) -> None:
        """Note that the effect has taken place, and the handle number it gave."""
        at, words = self.at, self._words
        words[at + _FH] = fh
        words[at] = words[at] & _CODE | DONE

    def repeat_failure(self) -> None:
        """Raise the OSError by which the operation has failed already, if its record says so."""
        if self.is_recorded and self.errno:
            raise OSError(self.errno, os.strerror(self.errno))

    def disown(self) -> None:
        """Note that it stands for no request any more."""
        self._words[self.at + WHO] = _NOBODY

    def settle(self, last_seq: int) -> None:
        """Find out whether it was recorded, given the number of the newest record."""
        at, words = self.at, self._words
        if self.phase == COALESCING:
            is_told = words[words[at + RUN]] == words[at + SEQ]
        elif self.phase == LOGGING:
            is_told = words[at + SEQ] <= last_seq
        else:
            return
        phase = RECORDED if is_told else STARTED if self.errno else DONE
        words[at] = words[at] & _CODE | phase


class Journal:
    """The journal of a region.

    Attributes:
        words: the words of the region; the hot path writes those of an entry in place.
        inline: the entry of what is done without waiting.
        finished: entries whose replies leave before the next request is read.
        resumed: entries of unanswered requests of an earlier worker, until they come again.
    """

    def __init__(self, region: Region) -> None:
        self.words = region.words
        self.inline = Entry(self.words, INLINE)
        self.finished: list[Entry] = []
        self.resumed: dict[Key, list[Entry]] = {}
        self._free = [
            Entry(self.words, INLINE + number * _STRIDE) for number in range(_ENTRIES - 1, 0, -1)
        ]

    def pending(self, entry: Entry) -> int:
        """Return how many requests other than that of `entry` may have no record yet."""
        taken = _ENTRIES - 1 - len(self._free) - len(self.finished)
        return taken if entry is self.inline else taken - 1

    def begin(self, code: int, who: int, where: int, waits: bool) -> Entry:
        """Return the entry of a request: the one that an earlier worker began, or a new one.

        Put it in `finished` at the end, unless it is `inline`.

        Args:
            code: of the operation.
            who: thread id of the caller, or handle number.
            where: position, or 0.
            waits: other requests may be served before its end.
        """
        if self.resumed:
            entry = self.resume(Key(code, who, where))
            if entry is not None:
                return entry
        entry = self._free.pop() if waits else self.inline
        words, at = self.words, entry.at
        words[at + WHO] = who
        words[at + WHERE] = where
        words[at] = code | STARTED
        return entry

    def answered(self) -> None:
        """Note that the replies of all that is `finished` have left."""
        for entry in self.finished:
            self.words[entry.at] = 0
            self._free.append(entry)
        self.finished.clear()

    def resume(self, key: Key) -> Entry | None:
        """Return the entry of a request if it was taken up before."""
        entries = self.resumed.get(key)
        if entries is None:
            return None
        entry = entries.pop()
        if not entries:
            del self.resumed[key]
        return entry

    def give_up_resumed(self) -> None:
        """Free the entries of requests that do not come again: their callers were killed."""
        for entries in self.resumed.values():
            for entry in entries:
                self.words[entry.at] = 0
                self._free.append(entry)
        self.resumed.clear()

    def load(self, last_seq: int) -> None:
        """Take up the entries that the keeper left.

        Args:
            last_seq: number of the newest record in the log, which shows whether a record was
                written whose entry does not say so yet.
        """
        words = self.words
        for entry in [*self._free]:
            if words[entry.at]:
                self._free.remove(entry)
                entry.settle(last_seq)
                self.resumed.setdefault(entry.key, []).append(entry)
        for entries in self.resumed.values():
            # The last one is taken first; any order will do.
            entries.sort(key=lambda entry: entry.phase)

    def executing(self) -> Key | None:
        """Return the request whose effect was not complete when the worker died, if one was."""
        executing = self._executing()
        if executing and (executing[0] is self.inline or len(executing) == 1):
            return executing[0].key
        return None

    def is_executing(self) -> bool:
        """Return whether the effect of any request was not complete when the worker died."""
        return bool(self._executing())

    def _executing(self) -> list[Entry]:
        entries = [entry for entry in [self.inline, *self._free] if self.words[entry.at]]
        return [entry for entry in entries if not entry.is_done]

    def is_waiting(self) -> bool:
        """Return whether requests were taken up."""
        return any(self.words[entry.at] for entry in [self.inline, *self._free])

    def settle(self, unanswered: Iterable[tuple[Key, int]]) -> None:
        """Keep the entries of requests that are unanswered; for the keeper, with no worker.

        Of several entries for requests that are alike, those without a record are unanswered for
        sure.

        Args:
            unanswered: keys of the requests that the kernel sends again, each with the flags of
                setxattr(2) or 0.
        """
        words = self.words
        wanted = Counter(key for key, _ in unanswered)
        flags = dict(unanswered)
        standing = [entry for entry in [self.inline, *self._free] if words[entry.at]]
        for entry in sorted(standing, key=lambda entry: entry.phase):
            key = entry.key
            if key.code == CODES["getxattr"] and not wanted[key]:
                # pyfuse3 looks at an attribute before it sets it for XATTR_CREATE and the like.
                key = Key(CODES["setxattr"], key.who)
            if wanted[key] > 0:
                wanted[key] -= 1
                words[entry.at + _XATTR_FLAGS] = flags[key]
            else:
                words[entry.at] = 0
        if words[INLINE]:
            self._move_inline()

    def _move_inline(self) -> None:
        words = self.words
        entry = next(entry for entry in self._free if not words[entry.at])
        for word in range(1, _STRIDE):
            words[entry.at + word] = words[INLINE + word]
        words[entry.at] = words[INLINE]
        words[INLINE] = 0
