"""What is kept of a chained log beside the key, where who changes the log does not reach.

    STATE/chain/ID.head      the newest checkpoint: a log that ends before it was cut off
    STATE/chain/ID.removed   up to where the log was removed on purpose

ID stands for the path of the log. Both are signed, and replaced atomically. The writer has the one,
who removes rotated files the other.
"""

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from typing import Final, TypeVar

import msgspec

from fusevol.accesslog.chain.keys import Keys, PublicKey, directory, load
from fusevol.accesslog.log_end import end_of_file
from fusevol.accesslog.names import encode_name
from fusevol.accesslog.times import Timestamps
from fusevol.errors import FusevolError

_HEAD: Final = ".head"
_REMOVED: Final = ".removed"
_MARKS_KEPT: Final = 64


class Head(msgspec.Struct):
    """The newest checkpoint.

    Attributes:
        log, volume: path and name, in the encoding of `accesslog.names`.
        seq, hash: of the last record that it covers.
        time: when it was made, RFC 3339.
        stopped: the chain was turned off behind that record.
    """

    log: str
    volume: str
    seq: int
    hash: str
    time: str
    stopped: bool = False
    signature: str = ""

    @property
    def words(self) -> tuple[str | int, ...]:
        """What the signature is made over."""
        return ("head", self.log, self.volume, self.seq, self.hash, self.time, int(self.stopped))


class Mark(msgspec.Struct):
    """A record up to which the log was removed.

    Attributes:
        seq, hash: of the last one that was removed; the hash is that of the last which had one.
    """

    log: str
    seq: int
    hash: str
    time: str
    signature: str = ""

    @property
    def words(self) -> tuple[str | int, ...]:
        """What the signature is made over."""
        return ("removed", self.log, self.seq, self.hash, self.time)


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
        return _read(self._base + _HEAD, Head)

    def marks(self) -> list[Mark]:
        """Return up to where the log was removed, the newest last.

        Raises:
            FusevolError: what is kept is damaged.
        """
        kept = _read(self._base + _REMOVED, _Marks)
        return kept.marks if kept is not None else []

    def keep_head(
        self, keys: Keys, volume: str, seq: int, digits: str, *, stopped: bool = False
    ) -> None:
        """Replace the newest checkpoint.

        Raises:
            OSError: it cannot be written.
            UnsupportedError: it cannot be signed.
        """
        head = Head(self._log, volume, seq, digits, _now(), stopped)
        head.signature = keys.sign(*head.words)
        _write(self._base + _HEAD, head)

    def stop(self, seq: int, digits: str) -> None:
        """Note that the chain was turned off behind a record.

        Raises:
            OSError, FusevolError: that cannot be done.
        """
        head = self.head()
        if head is not None and not head.stopped:
            if seq < head.seq:
                seq, digits = head.seq, head.hash
            self.keep_head(load(), head.volume, seq, digits, stopped=True)

    def add_mark(self, keys: Keys, seq: int, digits: str) -> None:
        """Note that the log is removed up to a record; without `digits`, one without a hash.

        Raises:
            OSError, FusevolError: that cannot be done.
        """
        marks = self.marks()
        if not digits and marks:
            digits = marks[-1].hash
        mark = Mark(self._log, seq, digits, _now())
        mark.signature = keys.sign(*mark.words)
        _write(self._base + _REMOVED, _Marks([*marks, mark][-_MARKS_KEPT:]))


def forget(log: str, removed: str) -> None:
    """Note that `removed`, a rotated file of `log`, is removed on purpose; call it right before.

    Does nothing for a log that is not chained.

    Raises:
        OSError, FusevolError: that cannot be done; the file must stay.
    """
    ledger = Ledger(log)
    if ledger.head() is None:
        return
    end = end_of_file(removed)
    if end.seq:
        ledger.add_mark(load(), end.seq, end.hash.decode())


def heads_of(volume: str) -> Iterator[Head]:
    """Yield the newest checkpoints of all logs that a volume, named as in records, has had."""
    try:
        names = os.listdir(directory())
    except FileNotFoundError:
        return
    for name in sorted(names):
        if name.endswith(_HEAD):
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
                f"what is kept of the chain in {directory()} was not written with this key"
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
        raise FusevolError(f"{path} is damaged; remove it to begin anew") from None


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


def _now() -> str:
    return Timestamps().of(time.time_ns())
