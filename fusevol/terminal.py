"""Text that is safe to show on a terminal, whatever its origin.

Containers choose names of files, processes and attributes, and anybody may have written a log. So
whatever could move the cursor, turn the direction of writing, hide itself or begin a new line is
written as an escape.
"""

import re
from typing import Final

_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U00016fe4\U0001d159\U000e0100-\U000e01ef]"
)
"""Characters without a shape that count as printable: Default_Ignorable_Code_Point of Unicode's
DerivedCoreProperties.txt, and blanks that are not spaces."""


_SHORT_ESCAPES: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(text: str) -> str:
    r"""Return `text` with everything escaped that a terminal would not show as a character.

    Escapes are \n, \r, \t, \xHH below 0x80, \uHHHH and \UHHHHHHHH.
    """
    if _is_printable(text):
        return text
    return "".join(map(_escaped, text))


def _is_printable(text: str) -> bool:
    return text.isprintable() and not _INVISIBLE.search(text)


def _escaped(character: str) -> str:
    if _is_printable(character):
        return character
    code = ord(character)
    if code < 0x80:
        return _SHORT_ESCAPES.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quoted(text: str) -> str:
    r"""Return `text` as one printable word: in double quotes if it holds a space (then \" is ")."""
    text = printable(text)
    if text and " " not in text and '"' not in text:
        return text
    return '"' + text.replace('"', r"\"") + '"'


def printable_json(line: bytes) -> bytes:
    """Return a JSON text that means the same as `line` and that a terminal shows as it is."""
    text = line.decode("utf-8", "replace")
    return line if _is_printable(text) else "".join(map(_json_escaped, text)).encode()


def _json_escaped(character: str) -> str:
    if _is_printable(character):
        return character
    if character in "\r\t":
        return " "  # Between values: inside of strings, JSON has them escaped already.
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
