"""The kinds of values that options have: how they are written, and what that means.

Each parser takes what stands after `=` and raises ValueError with what it expected, to complete
`invalid NAME=VALUE: expected ...`.
"""

import enum
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fusevol.errors import UnsupportedError
from fusevol.model import OnLogFailure, RecordLevel
from fusevol.options.log import Compression, LogFormat
from fusevol.spelling import did_you_mean, one_of

TRUE: Final = frozenset(("true", "1", "yes", "on", ""))
FALSE: Final = frozenset(("false", "0", "no", "off"))

_SIZE: Final = re.compile(r"([0-9]{1,15})\s*(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE)
_SHIFTS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_TIME: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([smhdw]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LONGEST_COALESCING_S: Final = 60.0
_DEADLINES_S: Final = (0.1, 3600)
_SMALLEST_FILE: Final = 4096


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of values.

    Attributes:
        metavar: stands for the value in help texts.
        parse: makes the value of its text; ValueError says what was expected.
        choices: values that completion offers.
        is_number: a number of TOML is one, too.
        separator: what joins the strings of a list of TOML; empty where a list is none.
        is_path: a path; absolute where its reader has another working directory than its writer.
    """

    metavar: str
    parse: Callable[[str], Any]
    choices: tuple[str, ...] = ()
    is_number: bool = False
    separator: str = ""
    is_path: bool = False


def parse_size(text: str) -> int:
    """Return bytes: `500M`, `2GiB`, `4096`; units are powers of 1024."""
    said = _SIZE.fullmatch(text.strip())
    if said is None:
        raise ValueError("a size such as 500M")
    return int(said[1]) << _SHIFTS[(said[2] or "").upper()]


def parse_time(text: str) -> float:
    """Return seconds: `90`, `90s`, `15m`, `2h`, `1d`, `4w`."""
    said = _TIME.fullmatch(text.strip())
    if said is None:
        raise ValueError("a time such as 90s, 15m, 2h or 1d")
    return float(said[1]) * _SECONDS[said[2]]


def parse_boolean(text: str) -> bool:
    """Return what `true`, `false` and their like mean; nothing at all is true."""
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise ValueError("true or false")


def written(value: Any) -> str:
    """Return the text that means `value`, as options take it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "+".join(value)
    if isinstance(value, float):
        # Without exponents, which `parse_time` does not know.
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return str(value)


def _parse_deadline(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parse_time(text)
        except ValueError:
            seconds = math.nan
    low, high = _DEADLINES_S
    if seconds == 0 or low <= seconds <= high:
        return seconds
    raise ValueError(f"a time from {low}s to {high}s such as 30s, or 0 for none")


def _parse_coalescing(text: str) -> float:
    longest = _LONGEST_COALESCING_S
    try:
        seconds = parse_time(text)
    except ValueError:
        seconds = math.inf
    if seconds > longest:
        raise ValueError(f"a time of at most {longest:g}s such as 2s, or 0 for none")
    return seconds


def _parse_file_size(text: str) -> int:
    size = parse_size(text)
    if 0 < size < _SMALLEST_FILE:
        raise ValueError(f"at least {_SMALLEST_FILE} bytes, or 0 for no limit")
    return size


def _parse_number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ValueError("a number, or 0 for all")
    return int(text)


def _parse_sinks(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split("+") if word.strip())


def _parse_subpath(text: str) -> str:
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts or text.startswith("/"):
        raise ValueError("a path below the source, without '..'")
    return "/".join(parts)


def _parse_level(text: str) -> RecordLevel:
    if text == "open":
        raise UnsupportedError(
            "record level open is not available in this version; use all or data"
        )
    level: RecordLevel = _parser_of(RecordLevel)(text)
    return level


def _parser_of(values: type[enum.StrEnum]) -> Callable[[str], Any]:
    def parse(text: str) -> enum.StrEnum:
        try:
            return values(text)
        except ValueError:
            raise ValueError(f"{one_of(values)}{did_you_mean(text, values)}") from None

    return parse


def _choice(values: type[enum.StrEnum], parse: Callable[[str], Any] | None = None) -> Kind:
    return Kind("|".join(values), parse or _parser_of(values), choices=tuple(values))


BOOLEAN: Final = Kind("true|false", parse_boolean, choices=("true", "false"))
COMPRESSION: Final = _choice(Compression)
LEVEL: Final = _choice(RecordLevel, _parse_level)
LOG_FORMAT: Final = _choice(LogFormat)
ON_LOG_FAILURE: Final = _choice(OnLogFailure)
SIZE: Final = Kind("SIZE", parse_size, is_number=True)
FILE_SIZE: Final = Kind("SIZE", _parse_file_size, is_number=True)
TIME: Final = Kind("TIME", parse_time, is_number=True)
DEADLINE: Final = Kind("TIME", _parse_deadline, is_number=True)
COALESCING: Final = Kind("TIME", _parse_coalescing, is_number=True)
NUMBER: Final = Kind("N", _parse_number, is_number=True)
SINKS: Final = Kind("SINK[+SINK...]", _parse_sinks, separator="+",
                    choices=("journald", "syslog", "stdout"))  # fmt: skip
RULES: Final = Kind("RULES", str.strip, separator="; ")
OPERATION_LIST: Final = Kind("OPERATIONS", str.strip, separator=" ")
NAME: Final = Kind("NAME", str)
PATH: Final = Kind("PATH", str, is_path=True)
LOG: Final = Kind("FILE|none", str, choices=("none",), is_path=True)
SUBPATH: Final = Kind("DIR", _parse_subpath)
