"""The access record in other formats: one module each, with `encode` and `decode`.

`encode` makes one line of a record, without the newline; `decode` is its inverse. Both raise
MalformedRecordError and nothing else: for a record that the format cannot tell, and for a line that
is not in the format. No line holds a newline, whatever names the record has.

A log may be in any of them, and in several, as its format can be changed while it is written.
"""

import importlib
import re
from collections.abc import Callable
from types import ModuleType
from typing import Final

from fusevol.accesslog import record as native
from fusevol.accesslog.record import AccessRecord, MalformedRecordError

_LINES: Final = {"juicefs": re.compile(rb"[0-9]{4}\."), "text": re.compile(rb"[0-9]{4}-")}
"""How lines begin that are no JSON."""

_DOCUMENTS: Final = {
    "ecs": re.compile(rb'"@timestamp"\s*:'),
    "ocsf": re.compile(rb'"class_uid"\s*:'),
}
"""A key that JSON of others has; no text in there can look like it, as quotes are escaped."""


def encoder(name: str) -> Callable[[AccessRecord], bytes]:
    """Return what makes lines of records in the format `name`, one of `LogFormat`.

    What it returns never raises: a record that the format cannot tell becomes a line of JSON as
    `record` writes it, which readers take among any others.
    """
    if name == "json":
        return native.encode
    encode: Callable[[AccessRecord], bytes] = _module(name).encode

    def encode_or_fall_back(record: AccessRecord) -> bytes:
        try:
            return encode(record)
        except MalformedRecordError:
            return native.encode(record)

    return encode_or_fall_back


def decode(line: bytes) -> AccessRecord:
    """Return the record in `line`, whichever format it is in.

    Raises:
        MalformedRecordError: it is in none of them.
    """
    for name, beginning in _LINES.items():
        if beginning.match(line):
            return _decode(name, line)
    try:
        return native.decode(line)
    except MalformedRecordError:
        for name, mark in _DOCUMENTS.items():
            if mark.search(line):
                return _decode(name, line)
        raise


def _decode(name: str, line: bytes) -> AccessRecord:
    decode_line: Callable[[bytes], AccessRecord] = _module(name).decode
    return decode_line(line)


def _module(name: str) -> ModuleType:
    # Loaded when needed: most logs are JSON, and a worker that starts has no time for the others.
    return importlib.import_module(f"fusevol.accesslog.formats.{name}")
