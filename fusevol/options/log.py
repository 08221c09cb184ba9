"""What is written to an access log, how, and what becomes of it: the words that say so.

The same words serve `fusevol mount -o`, `volume create -o`, Docker and the configuration.
"""

import enum
import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from fusevol.errors import UsageError


class LogFormat(enum.StrEnum):
    """How a record is written to the file."""

    JSON = "json"
    ECS = "ecs"
    OCSF = "ocsf"
    JUICEFS = "juicefs"
    TEXT = "text"


class Compression(enum.StrEnum):
    """What becomes of a rotated file."""

    NONE = "none"
    ZSTD = "zstd"


class LogOptions(msgspec.Struct, frozen=True):
    """The access log of one mount.

    Attributes:
        format: of the file.
        sinks: where records go besides, each as `[FORMAT@]TARGET`: see `logagent.sinks`.
        include, exclude: rules for the records to keep, and to leave out: see
            `recording.record_filter`.
        success, failure: operations to record when they succeed, and when they fail: the same.
        coalesce: seconds that reads or writes of one handle may be gathered in one record; 0 for
            one record each.
        chain: each record has a keyed hash over itself and the one before.
        rotate_size: bytes from which on a file is rotated; 0 for never.
        rotate_age: seconds after which a file is rotated; 0 for never.
        compress: what becomes of rotated files.
        keep_files: how many rotated files are kept; 0 for all.
        keep_age: seconds that a rotated file is kept; 0 for ever.
        quota: bytes that all files of the log may have together; 0 for any number.
        space_warn: bytes free on the log's file system below which fusevol warns; 0 for never.
        space_act: bytes free below which the oldest rotated files are removed; 0 for never.
    """

    format: LogFormat = LogFormat.JSON
    sinks: tuple[str, ...] = ()
    include: str = ""
    exclude: str = ""
    success: str = ""
    failure: str = ""
    coalesce: float = 0.0
    chain: bool = False
    rotate_size: int = 0
    rotate_age: float = 0.0
    compress: Compression = Compression.NONE
    keep_files: int = 0
    keep_age: float = 0.0
    quota: int = 0
    space_warn: int = 0
    space_act: int = 0

    @property
    def needs_agent(self) -> bool:
        """Whether there is something to do besides writing the file."""
        return bool(self.sinks or self.rotates or self.space_warn)

    @property
    def rotates(self) -> bool:
        """Whether fusevol rotates the file itself."""
        return bool(self.rotate_size or self.rotate_age or self.quota)

    def check(self, log: str) -> None:
        """See whether these make sense together.

        Args:
            log: where the records go: a file, "-" or "none".

        Raises:
            UsageError: they do not, and why.
        """
        of_rotated = ("compress", "keep_files", "keep_age", "space_act")
        idle = [key for key in of_rotated if getattr(self, key) != getattr(LogOptions(), key)]
        if idle and not self.rotates:
            raise UsageError(
                f"{idle[0]} is about files that fusevol has rotated; give rotate_size, rotate_age "
                f"or quota, too"
            )
        if log in _NO_FILES and self.needs_agent:
            key = next(iter(as_words(self)))
            raise UsageError(f"{key} takes a log that is a file, and log={log} is none")


_NO_FILES: Final = ("-", "none")

_SIZE: Final = re.compile(r"([0-9]{1,15})\s*(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE)
_FACTORS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_TIME: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([smhdw]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_COALESCE_S: Final = 60.0
_LEAST_FILE: Final = 4096

TRUE: Final = frozenset(("true", "1", "yes", "on", ""))
FALSE: Final = frozenset(("false", "0", "no", "off"))


def parse_size(key: str, value: str) -> int:
    """Return bytes: `500M`, `2GiB`, `4096`; units are powers of 1024.

    Raises:
        UsageError: it is none.
    """
    said = _SIZE.fullmatch(value.strip())
    if said is None:
        raise UsageError(f"{key}={value}: a size in bytes, such as 500M or 2G")
    return int(said[1]) << _FACTORS[(said[2] or "").upper()]


def parse_duration(key: str, value: str) -> float:
    """Return seconds: `90`, `90s`, `15m`, `2h`, `1d`, `4w`.

    Raises:
        UsageError: it is none.
    """
    said = _TIME.fullmatch(value.strip())
    if said is None:
        raise UsageError(f"{key}={value}: a time, such as 90s, 15m, 2h, 1d or 4w")
    return float(said[1]) * _SECONDS[said[2]]


def parse_boolean(key: str, value: str) -> bool:
    """Return what `true`, `false` and their like mean; UsageError for anything else."""
    if value.lower() in TRUE:
        return True
    if value.lower() in FALSE:
        return False
    raise UsageError(f"option {key}={value}: use true or false")


def _file_size(key: str, value: str) -> int:
    size = parse_size(key, value)
    if 0 < size < _LEAST_FILE:
        raise UsageError(f"{key}={value}: at least {_LEAST_FILE} bytes, or 0 for none")
    return size


def _gathering_time(key: str, value: str) -> float:
    seconds = parse_duration(key, value)
    if seconds > _COALESCE_S:
        raise UsageError(f"{key}={value}: at most {_COALESCE_S:g} seconds, or 0 for none")
    return seconds


def _number(key: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise UsageError(f"{key}={value}: a number, or 0 for any")
    return int(value)


def _one_of(kind: type[enum.StrEnum]) -> Callable[[str, str], enum.StrEnum]:
    def parse(key: str, value: str) -> enum.StrEnum:
        try:
            return kind(value)
        except ValueError:
            known = ", ".join(kind)
            raise UsageError(f"unknown {key}={value}; known are {known}") from None

    return parse


def _text(_key: str, value: str) -> str:
    return value.strip()


def _sinks(_key: str, value: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in value.split("+") if word.strip())


_PARSERS: Final[dict[str, Callable[[str, str], Any]]] = {
    "format": _one_of(LogFormat),
    "sinks": _sinks,
    "include": _text,
    "exclude": _text,
    "success": _text,
    "failure": _text,
    "coalesce": _gathering_time,
    "chain": parse_boolean,
    "rotate_size": _file_size,
    "rotate_age": parse_duration,
    "compress": _one_of(Compression),
    "keep_files": _number,
    "keep_age": parse_duration,
    "quota": _file_size,
    "space_warn": parse_size,
    "space_act": parse_size,
}

KNOWN: Final = tuple(_PARSERS)


def changed(options: LogOptions, key: str, value: str) -> LogOptions:
    """Return `options` with one of the KNOWN words set to what `value` says; "" is the default.

    Raises:
        UsageError: the value cannot be meant.
    """
    if not value and key != "chain":
        return msgspec.structs.replace(options, **{key: getattr(LogOptions(), key)})
    return msgspec.structs.replace(options, **{key: _PARSERS[key](key, value)})


def as_words(options: LogOptions) -> dict[str, str]:
    """Return what differs from the defaults, as words that mean the same."""
    words = {}
    for key in KNOWN:
        value = getattr(options, key)
        if value == getattr(LogOptions(), key):
            continue
        if isinstance(value, bool):
            words[key] = "true" if value else "false"
        elif isinstance(value, tuple):
            words[key] = "+".join(value)
        else:
            words[key] = _plain(value) if isinstance(value, float) else str(value)
    return words


def _plain(seconds: float) -> str:
    """Return seconds as `parse_duration` takes them, which knows no exponents."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
