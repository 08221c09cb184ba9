"""What the formats that nest JSON objects have in common.

A format has a home for some keys of the record; the others go where it puts what it does not know.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from fusevol.record import record as native
from fusevol.record.record import AccessRecord, MalformedRecordError

Document = dict[str, Any]

DIRECTORY_OPERATIONS: Final = frozenset({
    "mkdir", "rmdir", "opendir", "readdir", "releasedir", "fsyncdir",
})  # fmt: skip
LINK_OPERATIONS: Final = frozenset({"symlink", "readlink"})
FILE_OPERATIONS: Final = frozenset({"create", "open", "read", "write", "flush", "release", "fsync"})
"""Operations that imply the type of their file."""

_TIME_LENGTH: Final = len("2026-11-24T02:03:07.816459Z")
_SECOND_LENGTH: Final = len("2026-11-24T02:03:07")


def to_document(record: AccessRecord) -> Document:
    """Return the keys of the record that have a value, in their order."""
    document: Document = msgspec.to_builtins(record)
    return document


def to_record(document: Document) -> AccessRecord:
    """Return the record of a document with the keys of the native format.

    Raises:
        MalformedRecordError: a required key is missing, or a value has a wrong type.
    """
    return native.decode(encode(document))


def encode(document: Document) -> bytes:
    """Return a document as one line.

    Raises:
        MalformedRecordError: it holds a number beyond 64 bits or text that is not Unicode.
    """
    try:
        return native.one_line(msgspec.json.encode(document))
    except (OverflowError, UnicodeEncodeError, msgspec.MsgspecError) as error:
        raise MalformedRecordError(str(error)) from error


def decode(line: bytes) -> Document:
    """Return the document in `line`.

    Raises:
        MalformedRecordError: `line` is not a JSON object.
    """
    try:
        document: Document = msgspec.json.decode(line, type=dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRecordError(str(error)) from error
    return document


def take(document: Document, *keys: str) -> Any:
    """Return what stands in nested objects under `keys`, None if there is nothing.

    Raises:
        MalformedRecordError: one of the keys leads to something that is not an object.
    """
    value: Any = document
    for key in keys:
        if not isinstance(value, dict):
            raise MalformedRecordError(f"expected an object around {'.'.join(keys)}")
        value = value.get(key)
        if value is None:
            return None
    return value


def number(text: Any) -> int | None:
    """Return a number that a format writes as text.

    Raises:
        MalformedRecordError: `text` is not a number.
    """
    if text is None:
        return None
    try:
        return int(text)
    except (TypeError, ValueError):
        raise MalformedRecordError(f"expected a number, got {str(text)[:40]!r}") from None


def epoch_us(time: str) -> int:
    """Return a time of the log as microseconds since 1970.

    Raises:
        MalformedRecordError: `time` is not as the log writes it.
    """
    fraction = time[_SECOND_LENGTH + 1 : -1]
    if (
        len(time) != _TIME_LENGTH
        or time[_SECOND_LENGTH] != "."
        or time[-1] != "Z"
        or not (fraction.isascii() and fraction.isdigit())
    ):
        raise MalformedRecordError("expected a time such as 2026-11-24T02:03:07.816459Z")
    return _second(time[:_SECOND_LENGTH]) * 1_000_000 + int(fraction)


@lru_cache
def _second(text: str) -> int:
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        raise MalformedRecordError("expected a time such as 2026-11-24T02:03:07.816459Z") from None
    # Years before 1970 count, too: whole seconds, so that no float loses anything.
    return int(moment.timestamp())


def base_name(path: str) -> str:
    """Return the last part of a path; the root is called "/"."""
    return path.rstrip("/").rpartition("/")[2] or path


def matched(expression: re.Pattern[str], line: bytes, why_not: str) -> re.Match[str]:
    """Return how all of a line matches.

    Raises:
        MalformedRecordError: it is not UTF-8, or does not match; `why_not` says so.
    """
    try:
        parts = expression.fullmatch(line.decode())
    except UnicodeDecodeError as error:
        raise MalformedRecordError(str(error)) from error
    if not parts:
        raise MalformedRecordError(why_not)
    return parts
