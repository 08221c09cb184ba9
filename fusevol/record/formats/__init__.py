"""The access record in other formats: one module each, with `encode` and `decode`.

`encode` makes one line of a record, without the newline; `decode` is its inverse. Both raise
MalformedRecordError and nothing else: for a record that the format cannot express, and for a line
that is not in the format. No line holds a newline, whatever names the record has.

A log may be in any of them, and in several, as its format can be changed while it is written.
"""

import importlib
import re
from collections.abc import Callable
from types import ModuleType
from typing import Final

from fusevol.options.log import LogFormat
from fusevol.record import record as native
from fusevol.record.record import AccessRecord, MalformedRecordError

_JSON: Final = b'{"time":"'
"""How a record in JSON begins that fusevol wrote: recognised at once, as most are such."""

_FORMATS: Final = {
    LogFormat.JUICEFS: re.compile(rb"\A[0-9]{4}\."),
    LogFormat.TEXT: re.compile(rb"\A[0-9]{4}-"),
    LogFormat.ECS: re.compile(rb'"@timestamp"\s*:'),
    LogFormat.OCSF: re.compile(rb'"class_uid"\s*:'),
}
"""How lines begin that are not JSON, and keys that JSON of others has. No text in there can look
like such a key, as quotes in it are escaped."""


def encoder(name: str) -> Callable[[AccessRecord], bytes]:
    """Return what makes lines of records in the format `name`, a LogFormat.

    What it returns never raises: a record that the format cannot express becomes a line of JSON as
    `record` writes it, which readers take among any others.
    """
    if name == LogFormat.JSON:
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
    name = format_of(line)
    if name == LogFormat.JSON:
        return native.decode(line)
    decode_line: Callable[[bytes], AccessRecord] = _module(name).decode
    return decode_line(line)


def format_of(line: bytes) -> LogFormat:
    """Return in which format a record in `line` could be."""
    if line.startswith(_JSON):
        return LogFormat.JSON
    for name, pattern in _FORMATS.items():
        if pattern.search(line):
            return name
    return LogFormat.JSON


def _module(name: str) -> ModuleType:
    # Loaded when needed: most logs are JSON, and a worker that starts has no time for the others.
    return importlib.import_module(f"fusevol.record.formats.{name}")
