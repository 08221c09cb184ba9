"""Elastic Common Schema, a document per record (https://www.elastic.co/docs/reference/ecs).

Nothing is lost: what ECS has no field for is in `fusevol`, under the keys of the native format.
"""

from typing import Any, Final

from fusevol.record.formats.documents import (
    DIRECTORY_OPERATIONS,
    FILE_OPERATIONS,
    LINK_OPERATIONS,
    Document,
    base_name,
    epoch_us,
    number,
    take,
    to_document,
    to_record,
)
from fusevol.record.formats.documents import decode as decode_document
from fusevol.record.formats.documents import encode as encode_document
from fusevol.record.record import EVENTS, OK, AccessRecord, MalformedRecordError

VERSION: Final = "9.4.0"

_HOMES: Final[dict[str, tuple[str, ...]]] = {
    "time": ("@timestamp",),
    "seq": ("event", "sequence"),
    "op": ("event", "action"),
    "reason": ("event", "reason"),
    "path": ("file", "path"),
    "ino": ("file", "inode"),
    "target": ("file", "target_path"),
    "pid": ("process", "pid"),
    "comm": ("process", "name"),
    "uid": ("user", "id"),
    "gid": ("user", "group", "id"),
    "container": ("container", "id"),
}
_NUMBERS_AS_TEXT: Final = ("ino", "uid", "gid")

_TYPES: Final = {
    **dict.fromkeys(("mknod", "mkdir", "symlink", "link", "create"), "creation"),
    **dict.fromkeys(("unlink", "rmdir"), "deletion"),
    **dict.fromkeys(("write", "rename", "setattr", "setxattr", "removexattr"), "change"),
    **dict.fromkeys(("open", "read", "opendir", "readdir", "readlink"), "access"),
    "mount": "start",
    "unmount": "end",
}
"""Operation -> `event.type`; all others are "info"."""

_NS_PER_US: Final = 1000
_LONGEST_IN_MESSAGE: Final = 256
"""Characters of a path in the message, which repeats it for people."""


def encode(record: AccessRecord) -> bytes:
    """Return the record as an ECS document.

    Raises:
        MalformedRecordError: its time is none, or a number is beyond 64 bits.
    """
    epoch_us(record.time)
    own = to_document(record)
    document: Document = {
        "@timestamp": own.pop("time"),
        "ecs": {"version": VERSION},
        "message": _message(record),
        "event": _event(record, own.pop("us"), own.pop("result")),
    }
    if record.result != OK:
        document["error"] = {"code": record.result}
    for key in _NUMBERS_AS_TEXT:
        if key in own:
            own[key] = str(own[key])
    for key, home in _HOMES.items():
        if key in own:
            _put(document, home, own.pop(key))
    _describe_file(record, document)
    document["fusevol"] = own
    return encode_document(document)


def decode(line: bytes) -> AccessRecord:
    """Return the record in an ECS document that `encode` made; other fields are ignored.

    Raises:
        MalformedRecordError: it is none.
    """
    document = decode_document(line)
    own: Document = dict(take(document, "fusevol") or {})
    for key, home in _HOMES.items():
        own[key] = take(document, *home)
    for key in _NUMBERS_AS_TEXT:
        own[key] = number(own[key])
    nanoseconds = take(document, "event", "duration")
    if not isinstance(nanoseconds, int):
        raise MalformedRecordError("event.duration is missing")
    own["us"] = nanoseconds // _NS_PER_US
    own["result"] = take(document, "error", "code") or OK
    return to_record(own)


def _event(record: AccessRecord, us: int, result: str) -> Document:
    return {
        "kind": "event",
        "category": ["host" if record.op in EVENTS else "file"],
        "type": [_TYPES.get(record.op, "info")],
        "outcome": "success" if result == OK else "failure",
        "duration": us * _NS_PER_US,
        "module": "fusevol",
        "dataset": "fusevol.access",
    }


def _message(record: AccessRecord) -> str:
    what = record.path if record.path is not None else record.volume
    if len(what) > _LONGEST_IN_MESSAGE:
        what = f"...{what[-_LONGEST_IN_MESSAGE:]}"
    return f"{record.op} {what}: {record.result}"


def _describe_file(record: AccessRecord, document: Document) -> None:
    """Add what follows from the rest, so that it can be searched for."""
    if record.path is None:
        return
    file: Document = document["file"]
    file["name"] = base_name(record.path)
    if record.op in FILE_OPERATIONS:
        file["type"] = "file"
    elif record.op in DIRECTORY_OPERATIONS:
        file["type"] = "dir"
    elif record.op in LINK_OPERATIONS:
        file["type"] = "symlink"


def _put(document: Document, home: tuple[str, ...], value: Any) -> None:
    for key in home[:-1]:
        document = document.setdefault(key, {})
    document[home[-1]] = value
