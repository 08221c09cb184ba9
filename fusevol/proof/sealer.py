"""The writer's side of a chain. One thread only."""

import logging
import os
from typing import Final

from fusevol.errors import FusevolError
from fusevol.logs.log_end import LogEnd
from fusevol.logs.reader import parse
from fusevol.names import encode_name
from fusevol.proof.keys import Keys
from fusevol.proof.ledger import Head, Ledger
from fusevol.record.links import CLOSING, OPENING, START, Links
from fusevol.record.record import AccessRecord, MalformedRecordError
from fusevol.record.record import encode as encode_json

logger = logging.getLogger(__name__)

CHECKPOINT_S: Final = 60.0
"""How much of a log that was not ended properly could be cut off without being missed."""


class Sealer:
    """Gives each record its hash, and signs checkpoints.

    Attributes:
        signed_seq: number of the last record that a checkpoint covers.
    """

    def __init__(self, keys: Keys, log: str, volume: str) -> None:
        """Prepare to write a log; `go_on` or `encode` come next.

        Args:
            volume: as it stands in records.

        Raises:
            FusevolError: what is kept of the log is damaged.
        """
        self._keys = keys
        self._links = Links(keys.links)
        self._fresh = self._links.fresh
        self._ledger = Ledger(log)
        self._volume = volume
        self._head: Head | None = self._ledger.head()
        self._previous = self._before = START
        self.signed_seq = self._head.seq if self._head is not None else 0
        self._begun = self._head.begun if self._head is not None else 1

    def go_on(self, end: LogEnd) -> int:
        """Go on behind what is in the log; return the number of the last record that there was.

        Where the log ends before its newest checkpoint, numbers and hashes go on behind that all
        the same, so that what was cut off stays missing for ever.
        """
        head = self._head
        if head is None:
            self._previous = end.hash or START
            self._begun = end.seq + 1
            # From now on it is known that this log has a chain.
            self.keep(end.seq)
        elif _is_behind(end, head):
            previous = head.hash.encode()
            is_off = head.stopped and previous != START
            self._previous = self._links.resumed(previous) if is_off else previous
            return max(head.seq, end.seq)
        if not end.hash:
            self._previous = START
        elif end.after and not _holds_record(end.after):
            self._previous = self._links.torn(end.hash, end.after.removesuffix(b"\n"))
        else:
            self._previous = end.hash
        return end.seq

    @property
    def newest(self) -> bytes:
        """The hash of the newest record, in digits."""
        return self._previous

    def encode(self, record: AccessRecord) -> bytes:
        """Return the line of the next record, without the newline."""
        line = encode_json(record)[:-1]
        state = self._fresh.copy()
        state.update(self._previous)
        state.update(line)
        self._before = self._previous
        self._previous = digits = state.hexdigest().encode()
        return line + OPENING + digits + CLOSING

    def take_back(self) -> None:
        """Forget what `encode` returned last, since it did not get into the log."""
        self._previous = self._before

    def encode_behind(self, record: AccessRecord, between: bytes) -> bytes:
        """Do as `encode`, where `between`, which is not a record, stands before the line."""
        before = self._previous
        self._previous = self._links.torn(before, between)
        line = self.encode(record)
        self._before = before
        return line

    def signature(self, seq: int) -> str | None:
        """Return a signature over all records up to the last one, `seq`; None if that fails."""
        try:
            return self._keys.sign("checkpoint", self._volume, seq, self._previous.decode())
        except FusevolError as error:
            logger.error("a checkpoint could not be signed: %s", error)
            return None

    def keep(self, seq: int) -> None:
        """Keep the last record, `seq`, as the newest checkpoint."""
        self.signed_seq = seq
        try:
            digits = self._previous.decode()
            self._ledger.keep_head(self._keys, self._volume, seq, digits, self._begun)
        except (OSError, FusevolError) as error:
            logger.error("a checkpoint could not be saved: %s", error)


def stop(log: str, end: LogEnd) -> None:
    """Note that the chain of a log, if it has one, was turned off behind its end."""
    try:
        Ledger(log).stop(end.seq, end.hash.decode())
    except (OSError, FusevolError) as error:
        logger.error("the end of the chain of %s could not be saved: %s", log, error)


def volume_in_records(name: str) -> str:
    """Return the name of a volume as it stands in records."""
    return encode_name(os.fsencode(name))


def _is_behind(end: LogEnd, head: Head) -> bool:
    """Return whether the newest checkpoint knows more of the chain than the log's end does."""
    if not end.hash or end.seq < head.seq:
        return True
    # Off since then; were it on again, there would be a record with another hash.
    return head.stopped and end.hash == head.hash.encode()


def _holds_record(text: bytes) -> bool:
    for line in text.split(b"\n"):
        try:
            parse(line)
        except MalformedRecordError:
            continue
        return True
    return False
