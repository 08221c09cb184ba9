"""What the `hash` of a record is made of: a keyed BLAKE2b over the one before and the line itself.

A line of a chained log ends with `,"hash":"` 32 hexadecimal digits `"}`. The digits are those of
BLAKE2b with a digest of 16 bytes, over the digits of the record before and the line up to that
comma. Three things may stand for the record before:

- `START`, where a chain begins;
- `resumed`, where records without a hash are in between, since the chain was off meanwhile;
- `torn`, where what is in between is the half of a line that a crash or a full disk left.

Making any of these requires the key. One hash takes about a microsecond.
"""

import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

HASH_BYTES: Final = 16
START: Final = b"0" * (2 * HASH_BYTES)

OPENING: Final = b',"hash":"'
CLOSING: Final = b'"}'
_TAIL_BYTES: Final = len(OPENING) + 2 * HASH_BYTES + len(CLOSING)
_DIGITS: Final = slice(-2 * HASH_BYTES - len(CLOSING), -len(CLOSING))
_TAIL: Final = re.compile(rb',"hash":"[0-9a-f]{32}"\}')
_RESUMED: Final = b"fusevol resumed"
_TORN: Final = b"fusevol torn"
_SEQ: Final = re.compile(rb'"seq":([0-9]{1,19}),')


class Links:
    """Makes and checks hashes by one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.fresh = blake2b(key=key, digest_size=HASH_BYTES)
        """To be copied for each hash: the key has gone in already, which is half of the work."""

    def follows(self, line: bytes, previous: bytes) -> bool:
        """Return whether `line` is as it was written, after a record with the hash `previous`."""
        state = self.fresh.copy()
        state.update(previous)
        state.update(line[:-_TAIL_BYTES])
        return line[-_TAIL_BYTES:] == OPENING + state.hexdigest().encode() + CLOSING

    def advance(self, lines: Iterable[bytes], previous: bytes) -> tuple[int, bytes, bytes | None]:
        """Go over lines as long as each `follows` on the one before; the first one on `previous`.

        Returns how many do, the last one that does, and the one that does not, if there is one.
        """
        fresh = self.fresh.copy
        digits = previous[_DIGITS]
        count = 0
        for line in lines:
            state = fresh()
            state.update(digits)
            state.update(line[:-_TAIL_BYTES])
            digits = state.hexdigest().encode()
            if line[-_TAIL_BYTES:] != OPENING + digits + CLOSING:
                return count, previous, line
            previous = line
            count += 1
        return count, previous, None

    def resumed(self, previous: bytes) -> bytes:
        """Return what stands for `previous` where the chain was off in between."""
        return self._marked(_RESUMED, previous)

    def torn(self, previous: bytes, between: bytes) -> bytes:
        """Return what stands for `previous` where `between`, which is not a record, follows it."""
        return self._marked(_TORN, previous + between)

    def _marked(self, mark: bytes, content: bytes) -> bytes:
        state = blake2b(content, key=self._key, digest_size=HASH_BYTES, person=mark)
        return state.hexdigest().encode()


def hash_of(line: bytes) -> bytes:
    """Return the hash that stands in a line that `is_hashed`."""
    return line[_DIGITS]


def is_hashed(line: bytes) -> bool:
    """Return whether a line ends with a hash, right or wrong."""
    return line.startswith(b"{") and _TAIL.fullmatch(line[-_TAIL_BYTES:]) is not None


def seq_of(line: bytes) -> int | None:
    """Return the number of the record in a line, None if none can be seen."""
    found = _SEQ.search(line)
    return int(found[1]) if found else None
