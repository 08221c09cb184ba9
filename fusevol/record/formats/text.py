r"""A line of text per record, for grep and its like, of which nothing is lost.

    2026-11-24T02:03:07.816699Z 8 data write ok 35us path=/report.txt uid=0 comm=bash offset=0 ...

Time (UTC), number, volume, operation, result and duration come first, the other keys by name. What
is empty, holds a space or a quote, or cannot be shown is quoted and escaped as in JSON; all else
stands as it is, a backslash too.
"""

import re
from typing import Final, get_type_hints

import msgspec

from fusevol.record.formats.documents import Document, epoch_us, matched, to_document, to_record
from fusevol.record.record import AccessRecord, MalformedRecordError
from fusevol.terminal import printable, printable_json

_HEAD: Final = ("time", "seq", "volume", "op", "result")

_WORD: Final = r'(?:"(?:[^"\\]|\\.)*+"|[^"\s][^\s"]*+)'
_LINE: Final = re.compile(
    rf"(?P<time>[0-9-]{{10}}T[0-9:.]{{15}}Z) (?P<seq>[0-9]+) (?P<volume>{_WORD}) (?P<op>{_WORD})"
    rf" (?P<result>{_WORD}) (?P<us>[0-9]+)us(?P<others>(?: \w+={_WORD})*+)",
    re.ASCII,
)
_OTHER: Final = re.compile(rf" (\w+)=({_WORD})", re.ASCII)

_PLAIN: Final = re.compile(r"[!#-~]+")
"""Words that are certainly shown as they are; they are tried first, since most are such."""

_NUMBERS: Final = frozenset(
    key for key, type_ in get_type_hints(AccessRecord).items() if type_ in (int, int | None)
)


def encode(record: AccessRecord) -> bytes:
    """Return the record as a line of text.

    Raises:
        MalformedRecordError: its time is none, or it holds text that is not Unicode.
    """
    epoch_us(record.time)
    own = to_document(record)
    head = " ".join(_word(own.pop(key, "")) for key in _HEAD)
    others = "".join([f" {key}={_word(value)}" for key, value in own.items() if key != "us"])
    try:
        return f"{head} {record.us}us{others}".encode()
    except UnicodeEncodeError as error:
        raise MalformedRecordError(str(error)) from error


def decode(line: bytes) -> AccessRecord:
    """Return the record in a line that `encode` made.

    Raises:
        MalformedRecordError: it is none.
    """
    parts = matched(_LINE, line, "not a line of fusevol's text format")
    own: Document = {key: _text(parts[key]) for key in ("time", "volume", "op", "result")}
    own["seq"] = _number(parts["seq"])
    own["us"] = _number(parts["us"])
    for key, word in _OTHER.findall(parts["others"]):
        own[key] = _number(word) if key in _NUMBERS else _text(word)
    return to_record(own)


def _word(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    if _PLAIN.fullmatch(value) or _is_plain(value):
        return value
    return printable_json(_json(value)).decode()


def _is_plain(text: str) -> bool:
    return text != "" and '"' not in text and " " not in text and printable(text) == text


def _json(text: str) -> bytes:
    try:
        return msgspec.json.encode(text)
    except UnicodeEncodeError as error:
        raise MalformedRecordError(str(error)) from error


def _text(word: str) -> str:
    if not word.startswith('"'):
        return word
    try:
        return msgspec.json.decode(word, type=str)
    except msgspec.DecodeError as error:
        raise MalformedRecordError(str(error)) from error


def _number(word: str) -> int:
    try:
        return msgspec.json.decode(word, type=int)
    except msgspec.DecodeError as error:
        raise MalformedRecordError(str(error)) from error
