"""Names on Linux are bytes, JSON strings are text: a reversible way from one to the other.

A name that is valid UTF-8 and holds no backslash is written as it is. Each byte that is not part
of valid UTF-8 is written as a backslash, an x and two hex digits; a backslash is written twice.
`decode_name(encode_name(b)) == b` holds for all bytes.

The text may still hold control characters (newlines, terminal escapes). JSON escapes those below
0x20; code that prints a name for people has to make the rest harmless (`record.text`).
"""

import re
from typing import Final

_ESCAPE = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")
_BACKSLASH: Final = ord("\\")
"""A number, as `in` looks for one eight times as fast as for a `bytes` of length one."""


def encode_name(name: bytes) -> str:
    """Return the text that stands for `name` (or a path) in the access log."""
    if _BACKSLASH in name:
        name = name.replace(b"\\", b"\\\\")
    return name.decode("utf-8", "backslashreplace")


def decode_name(text: str) -> bytes:
    """Return the bytes that `text` stands for; the inverse of `encode_name`."""
    raw = text.encode()
    if b"\\" not in raw:
        return raw
    return _ESCAPE.sub(lambda m: bytes.fromhex(m[1].decode()) if m[1] else b"\\", raw)
