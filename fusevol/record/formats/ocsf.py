"""OCSF, class File System Activity (https://schema.ocsf.io/1.8.0/classes/file_activity).

Nothing is lost: what the class has no attribute for is in `unmapped`, under the keys of the native
format. OCSF counts time in milliseconds; `metadata.original_time` has it as it was.
"""

import os
from functools import cache
from typing import Final

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
from fusevol.record.record import OK, AccessRecord, MalformedRecordError

VERSION: Final = "1.8.0"

_CATEGORY: Final = 1
_CLASS: Final = 1001

_CREATE, _READ, _UPDATE, _DELETE, _RENAME, _SET_ATTRIBUTES, _SET_SECURITY = range(1, 8)
_GET_ATTRIBUTES, _GET_SECURITY = 8, 9
_MOUNT, _UNMOUNT, _OPEN = 12, 13, 14
_OTHER: Final = 99

_ACTIVITIES: Final = {
    **dict.fromkeys(("mknod", "mkdir", "symlink", "link", "create"), _CREATE),
    **dict.fromkeys(("read", "readdir", "readlink"), _READ),
    **dict.fromkeys(("unlink", "rmdir"), _DELETE),
    **dict.fromkeys(("open", "opendir"), _OPEN),
    **dict.fromkeys(("lookup", "getattr", "statfs", "listxattr"), _GET_ATTRIBUTES),
    "write": _UPDATE,
    "rename": _RENAME,
    "mount": _MOUNT,
    "unmount": _UNMOUNT,
}
"""Operation -> `activity_id`, for those whose keys make no difference."""

_SECURITY_ATTRIBUTES: Final = ("security.", "system.posix_acl_")

_UNKNOWN_TYPE, _REGULAR_FILE, _FOLDER, _SYMBOLIC_LINK = 0, 1, 2, 7

_INFORMATIONAL, _MEDIUM = 1, 3
_SUCCESS, _FAILURE = 1, 2

_PRODUCT: Final = {"name": "fusevol", "vendor_name": "fusevol"}


def encode(record: AccessRecord) -> bytes:
    """Return the record as an OCSF event.

    Raises:
        MalformedRecordError: its time is none.
    """
    own = to_document(record)
    activity = _activity(record)
    event: Document = {
        "category_uid": _CATEGORY,
        "class_uid": _CLASS,
        "activity_id": activity,
        "type_uid": _CLASS * 100 + activity,
        "severity_id": _MEDIUM if record.op == "gap" else _INFORMATIONAL,
        "time": epoch_us(record.time) // 1000,
        "metadata": _metadata(record, own),
        "device": {"type_id": _UNKNOWN_TYPE, "hostname": _host_name()},
        "actor": _actor(own),
        "file": _file(record, own),
        "status_id": _SUCCESS if record.result == OK else _FAILURE,
    }
    if activity == _OTHER:
        event["activity_name"] = record.op
    if (result := own.pop("result")) != OK:
        event["status_code"] = result
    if (to := own.pop("to", None)) is not None:
        event["file_result"] = {"name": base_name(to), "path": to, "type_id": _UNKNOWN_TYPE}
    event["unmapped"] = own
    return encode_document(event)


def decode(line: bytes) -> AccessRecord:
    """Return the record in an OCSF event that `encode` made; other attributes are ignored.

    Raises:
        MalformedRecordError: it is none.
    """
    event = decode_document(line)
    process = take(event, "actor", "process") or {}
    found = {
        "time": take(event, "metadata", "original_time"),
        "seq": take(event, "metadata", "sequence"),
        "op": take(event, "metadata", "event_code"),
        "volume": take(event, "file", "volume"),
        "path": take(event, "file", "path"),
        "ino": number(take(event, "file", "uid")),
        "result": take(event, "status_code") or OK,
        "to": take(event, "file_result", "path"),
        "pid": take(process, "pid"),
        "comm": take(process, "name"),
        "uid": number(take(process, "user", "uid")),
        "gid": number(_group(process)),
        "container": take(process, "container", "uid"),
    }
    own: Document = dict(take(event, "unmapped") or {})
    own.update((key, value) for key, value in found.items() if value is not None)
    return to_record(own)


def _activity(record: AccessRecord) -> int:
    if record.op == "setattr":
        if record.mode is not None or record.owner is not None or record.group is not None:
            return _SET_SECURITY
        return _UPDATE if record.size is not None else _SET_ATTRIBUTES
    if record.op in ("getxattr", "setxattr", "removexattr"):
        is_security = (record.name or "").startswith(_SECURITY_ATTRIBUTES)
        if record.op == "getxattr":
            return _GET_SECURITY if is_security else _GET_ATTRIBUTES
        return _SET_SECURITY if is_security else _SET_ATTRIBUTES
    return _ACTIVITIES.get(record.op, _OTHER)


def _metadata(record: AccessRecord, own: Document) -> Document:
    metadata = {
        "version": VERSION,
        "product": _PRODUCT,
        "event_code": own.pop("op"),
        "sequence": own.pop("seq"),
        "original_time": own.pop("time"),
    }
    if record.container is not None and record.pid is not None:
        metadata["profiles"] = ["container"]
    return metadata


def _actor(own: Document) -> Document:
    """The actor: a process, or, for events, fusevol itself."""
    if "pid" not in own:
        return {"app_name": "fusevol"}
    process: Document = {"pid": own.pop("pid")}
    if "comm" in own:
        process["name"] = own.pop("comm")
    if "uid" in own:
        process["user"] = {"uid": str(own.pop("uid"))}
        if "gid" in own:
            process["user"]["groups"] = [{"uid": str(own.pop("gid"))}]
    if "container" in own:
        process["container"] = {"uid": own.pop("container")}
    return {"process": process}


def _group(process: Document) -> object:
    groups = take(process, "user", "groups")
    if groups is None:
        return None
    if not isinstance(groups, list) or len(groups) != 1:
        raise MalformedRecordError("expected one group in actor.process.user.groups")
    return take(groups[0], "uid")


def _file(record: AccessRecord, own: Document) -> Document:
    path = own.pop("path", None)
    # The name is required, also for what is about no file in the volume.
    name = base_name(path or record.source or record.volume)
    file = {"name": name, "type_id": _file_type(record.op), "volume": own.pop("volume", "")}
    if path is not None:
        file["path"] = path
    if "ino" in own:
        file["uid"] = str(own.pop("ino"))
    return file


def _file_type(op: str) -> int:
    if op in FILE_OPERATIONS:
        return _REGULAR_FILE
    if op in DIRECTORY_OPERATIONS:
        return _FOLDER
    return _SYMBOLIC_LINK if op in LINK_OPERATIONS else _UNKNOWN_TYPE


@cache
def _host_name() -> str:
    return os.uname().nodename
