"""What is kept of a chained log beside the key, out of reach of a user who changes the log.

    STATE/chain/ID.head      the newest checkpoint: a log that ends before it was cut off
    STATE/chain/ID.removed   up to where the log was removed on purpose

ID stands for the path of the log. Both are signed, and replaced atomically. The writer has the one,
who removes rotated files the other.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, TypeVar

import msgspec

from fusevol.errors import FusevolError
from fusevol.logs.log_end import end_of_file, first_seq
from fusevol.names import encode_name
from fusevol.proof.keys import HEAD, Keys, PublicKey, directory, heads, load
from fusevol.record.times import now

_REMOVED: Final = ".removed"
_MARKS_KEPT: Final = 64


class Head(msgspec.Struct):
    """The newest checkpoint.

    Attributes:
        log, volume: path and name, in the encoding of `fusevol.names`.
        seq, hash: of the last record that it covers.
        time: when it was made, RFC 3339.
        begun: number of the record that the chain begins with.
        stopped: the chain was turned off behind that record.
    """

    log: str
    volume: str
    seq: int
    hash: str
    time: str
    begun: int
    stopped: bool = False
    signature: str = ""

    @property
    def words(self) -> tuple[str | int, ...]:
        """What the signature is made over."""
        return (
            "head", self.log, self.volume, self.seq, self.hash, self.time, self.begun,
            int(self.stopped),
        )  # fmt: skip


class Mark(msgspec.Struct):
    """A part of the log that was removed on purpose.

    Attributes:
        first: number of its first record.
        seq, hash: of its last record; the hash is that of the last which had one.
    """

    log: str
    first: int
    seq: int
    hash: str
    time: str
    signature: str = ""

    @property
    def words(self) -> tuple[str | int, ...]:
        """What the signature is made over."""
        return ("removed", self.log, self.first, self.seq, self.hash, self.time)


class _Marks(msgspec.Struct):
    marks: list[Mark] = []


Kept = TypeVar("Kept", bound=msgspec.Struct)


class Ledger:
    """What is kept of the log at one path."""

    def __init__(self, log: str) -> None:
        self._log = encode_name(os.fsencode(os.path.realpath(log)))
        name = hashlib.sha256(self._log.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        self._base = os.path.join(directory(), name)

    def head(self) -> Head | None:
        """Return the newest checkpoint, None if there is none.

        Raises:
            FusevolError: what is kept is damaged.
        """
        return _read(self._base + HEAD, Head)

    def marks(self) -> list[Mark]:
        """Return which parts of the log were removed, the one noted last behind the others.

        Raises:
            FusevolError: what is kept is damaged.
        """
        kept = _read(self._base + _REMOVED, _Marks)
        return kept.marks if kept is not None else []

    def keep_head(
        self,
        keys: Keys,
        volume: str,
        seq: int,
        digits: str,
        begun: int,
        *,
        stopped: bool = False,
    ) -> None:
        """Replace the newest checkpoint.

        Raises:
            OSError: it cannot be written.
            UnsupportedError: it cannot be signed.
        """
        head = Head(self._log, volume, seq, digits, now(), begun, stopped)
        head.signature = keys.sign(*head.words)
        _write(self._base + HEAD, head)

    def stop(self, seq: int, digits: str) -> None:
        """Note that the chain was turned off behind a record.

        Raises:
            OSError, FusevolError: that cannot be done.
        """
        head = self.head()
        if head is not None and not head.stopped:
            if seq < head.seq:
                seq, digits = head.seq, head.hash
            self.keep_head(load(), head.volume, seq, digits, head.begun, stopped=True)

    def add_mark(self, keys: Keys, first: int, seq: int, digits: str) -> None:
        """Note that a part of the log is removed; without `digits`, one that ends without a hash.

        Raises:
            OSError, FusevolError: that cannot be done.
        """
        marks = self.marks()
        if not digits and marks:
            digits = marks[-1].hash
        marks.append(self._mark(keys, first, seq, digits))
        if len(marks) > _MARKS_KEPT:
            marks = self._fewer(keys, marks)
        _write(self._base + _REMOVED, _Marks(marks))

    def _mark(self, keys: Keys, first: int, seq: int, digits: str) -> Mark:
        mark = Mark(self._log, first, seq, digits, now())
        mark.signature = keys.sign(*mark.words)
        return mark

    def _fewer(self, keys: Keys, marks: list[Mark]) -> list[Mark]:
        """Make one of the first two marks that belong together; else leave out the first."""
        for index, (one, two) in enumerate(pairwise(marks)):
            if one.seq + 1 == two.first:
                both = self._mark(keys, one.first, two.seq, two.hash)
                return [*marks[:index], both, *marks[index + 2 :]]
        return marks[1:]


def forget(log: str, removed: str) -> None:
    """Note that `removed`, a rotated file of `log`, is removed on purpose; call it right before.

    Does nothing for a log that is not chained.

    Raises:
        OSError, FusevolError: that cannot be done; the file must stay.
    """
    ledger = Ledger(log)
    if ledger.head() is None:
        return
    first, end = first_seq(removed), end_of_file(removed)
    if first and end.seq:
        ledger.add_mark(load(), first, end.seq, end.hash.decode())


def heads_of(volume: str) -> Iterator[Head]:
    """Yield the newest checkpoints of all logs that a volume, named as in records, has had."""
    for name in heads():
        with contextlib.suppress(FusevolError):
            head = _read(os.path.join(directory(), name), Head)
            if head is not None and head.volume == volume:
                yield head


def check_signatures(public: PublicKey, head: Head | None, marks: list[Mark]) -> None:
    """Check that what is kept was kept by us.

    Raises:
        FusevolError: a signature is wrong.
    """
    for kept in (head, *marks):
        if kept is not None and not public.accepts(kept.signature, *kept.words):
            raise FusevolError(
                f"the state of the chain in {directory()} was not written with this key"
            )


def _read(path: str, kind: type[Kept]) -> Kept | None:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FusevolError(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise FusevolError(f"{path} is damaged; remove it to start over") from None


def _write(path: str, content: msgspec.Struct) -> None:
    temporary = f"{path}.{secrets.token_hex(8)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(msgspec.json.encode(content))
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
