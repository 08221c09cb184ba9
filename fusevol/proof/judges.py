"""Whether one record of a chained log stands where it stood when it was written.

There are two judges. With the secret, each record can be judged; with the public key, each
checkpoint, and that no number is missing.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from fusevol.proof.keys import PublicKey
from fusevol.proof.ledger import Mark
from fusevol.record.links import START, Links, hash_of, is_hashed, seq_of
from fusevol.record.record import AccessRecord, MalformedRecordError, decode

_TEXT_BYTES: Final = 256 * 1024
"""What is more than that is no torn line."""
_CHECKPOINT: Final = b'"op":"checkpoint"'


@dataclass
class UnhashedLines:
    """Lines without a hash, one after the other.

    Attributes:
        count: how many.
        text: the lines, as long as they are not too many.
        number: of the first one in its file, `path`.
        first: the first one.
        seq, last_seq: numbers of the first and the last of them that are records.
    """

    count: int = 0
    text: bytes = b""
    path: str = ""
    number: int = 0
    first: bytes = b""
    seq: int | None = None
    last_seq: int | None = None

    def add(self, other: "UnhashedLines") -> None:
        """Put lines behind these."""
        if not other.count:
            return
        if not self.count:
            self.path, self.number, self.first = other.path, other.number, other.first
        if len(self.text) <= _TEXT_BYTES:
            self.text += (b"\n" if self.count else b"") + other.text
        self.count += other.count
        if self.seq is None:
            self.seq = other.seq
        if other.last_seq is not None:
            self.last_seq = other.last_seq

    @classmethod
    def of(cls, line: bytes, number: int) -> "UnhashedLines":
        """Return a single line."""
        seq = seq_of(line) if is_record(line) else None
        return cls(1, line, "", number, line, seq, seq)


class Link(enum.Enum):
    """How a record follows on what is before it."""

    BROKEN = "broken"
    LINKED = "linked"
    TORN = "torn"
    """Half a line is in between, and was when the record was written."""
    RESUMED = "resumed"
    """The chain was off in between."""
    START = "start"
    """The chain begins here."""
    REMOVED = "removed"
    """What was before was removed on purpose."""


class Judge(Protocol):
    """Says how records follow on one another."""

    def follows(self, line: bytes, previous: bytes) -> bool:
        """Return whether a line is as it was written, behind `previous`, another line."""

    def advance(self, lines: Iterable[bytes], previous: bytes) -> tuple[int, bytes, bytes | None]:
        """Go over lines as long as each `follows` on the one before; the first one on `previous`.

        Returns how many do, the last one that does, and the one that does not, if there is one.
        """

    def joins(self, line: bytes, previous: bytes, between: UnhashedLines) -> Link:
        """Return how a line follows on another one, with lines without a hash in between."""

    def begins(self, line: bytes, between: UnhashedLines) -> Link:
        """Return how the first line with a hash begins a log; `between` is before it."""

    def joins_removed(self, line: bytes, mark: Mark, between: UnhashedLines) -> bool:
        """Return whether a line follows on the last record of a part that was removed."""


class SecretJudge:
    """Has the key of the hashes."""

    def __init__(self, links: Links) -> None:
        self._links = links

    def follows(self, line: bytes, previous: bytes) -> bool:
        return self._links.follows(line, hash_of(previous))

    def advance(self, lines: Iterable[bytes], previous: bytes) -> tuple[int, bytes, bytes | None]:
        return self._links.advance(lines, previous)

    def joins(self, line: bytes, previous: bytes, between: UnhashedLines) -> Link:
        return self._joins(line, hash_of(previous), between)

    def begins(self, line: bytes, between: UnhashedLines) -> Link:
        if not self._links.follows(line, START):
            return Link.BROKEN
        return Link.BROKEN if between.count and seq_of(line) == 1 else Link.START

    def joins_removed(self, line: bytes, mark: Mark, between: UnhashedLines) -> bool:
        link = self._joins(line, mark.hash.encode(), between)
        return bool(mark.hash) and link is not Link.BROKEN

    def _joins(self, line: bytes, previous: bytes, between: UnhashedLines) -> Link:
        links = self._links
        if not between.count and links.follows(line, previous):
            return Link.LINKED
        is_short = between.count > 0 and len(between.text) <= _TEXT_BYTES
        if is_short and links.follows(line, links.torn(previous, between.text)):
            return Link.TORN
        if links.follows(line, links.resumed(previous)):
            return Link.RESUMED
        return Link.BROKEN


class PublicJudge:
    """Has the public key only."""

    def __init__(self, key: PublicKey) -> None:
        self._key = key

    def follows(self, line: bytes, previous: bytes) -> bool:
        before = seq_of(previous)
        if before is None or seq_of(line) != before + 1:
            return False
        return _CHECKPOINT not in line or self._is_signed(line, hash_of(previous))

    def advance(self, lines: Iterable[bytes], previous: bytes) -> tuple[int, bytes, bytes | None]:
        count = 0
        for line in lines:
            if not is_hashed(line) or not self.follows(line, previous):
                return count, previous, line
            previous = line
            count += 1
        return count, previous, None

    def joins(self, line: bytes, previous: bytes, between: UnhashedLines) -> Link:
        if not between.count:
            return Link.LINKED if self.follows(line, previous) else Link.BROKEN
        if between.last_seq is None:
            return Link.TORN if self.follows(line, previous) else Link.BROKEN
        return Link.RESUMED if seq_of(line) == between.last_seq + 1 else Link.BROKEN

    def begins(self, line: bytes, between: UnhashedLines) -> Link:
        seq = between.seq if between.count else seq_of(line)
        return Link.START if seq == 1 else Link.BROKEN

    def joins_removed(self, line: bytes, mark: Mark, between: UnhashedLines) -> bool:
        return True

    def _is_signed(self, line: bytes, previous: bytes) -> bool:
        record = record_in(line)
        if record is None or record.op != "checkpoint":
            return False
        words = ("checkpoint", record.volume, record.seq - 1, previous.decode())
        return self._key.accepts(record.signature, *words)


def is_record(line: bytes) -> bool:
    """Return whether a line is a record, with a hash or without."""
    return record_in(line) is not None


def record_in(line: bytes) -> AccessRecord | None:
    """Return the record in a line, None if there is none."""
    try:
        return decode(line)
    except MalformedRecordError:
        return None
