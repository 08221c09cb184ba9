"""What somebody may have meant by a word that does not exist."""

import difflib
from collections.abc import Iterable
from typing import Final

_LIKENESS: Final = 0.7
"""Of difflib: what slips of the fingers reach, and `delete` for `release` does not."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?`, to end an error with; empty if none of `known` resembles it."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=_LIKENESS)
    return f"; did you mean {close[0]}?" if close else ""


def one_of(known: Iterable[str]) -> str:
    """Return words as a choice: `a, b or c`."""
    *others, last = known
    return f"{', '.join(others)} or {last}" if others else last
