"""Positions in directories as clients get them: small ones, wherever that can be.

ext4 orders a directory by a hash, and a position in it is that of the next entry: 63 bits. A
program without large-file support has room for 31, and its C library fails with EOVERFLOW. The
kernel gives such a program the upper half; but fusevol does not see which program asks. So all get
the upper half: seeking there leads to the first entry from it on. Where two entries share an
upper half, that would lead to the first for both, and the second gets its whole position.

A position that is small by itself stays as it is, in a directory whose positions all are.
"""

from typing import Final

_HALF: Final = 32
_SMALL: Final = 1 << 31
_WIDE: Final = 1 << _HALF
_END: Final = (_SMALL - 1) << _HALF
"""No entry has this upper half: it stands for the end, or before a small position."""


def is_wide(position: int) -> bool:
    """Return whether a directory's positions are wide, by that after its first entry."""
    return position >= _WIDE


def cookie(position: int, before: int) -> int:
    """Return what a client gets for a wide `position`; `before` is that of the entry before it."""
    if 0 < position < _SMALL:
        return _END | position
    upper = position >> _HALF
    return upper if upper and upper != before >> _HALF else position


def position(cookie: int) -> int:
    """Return where to go on reading for what a client got."""
    if cookie < _SMALL:
        return cookie << _HALF
    lower = cookie & (_WIDE - 1)
    return lower if cookie >= _END and lower < _SMALL else cookie
