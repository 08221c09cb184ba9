"""The access record: one operation, who did it, on what, with what result, how long it took.

One record is one line of the access log: a JSON object, UTF-8, keys in the order of the fields
below, keys without a value left out. docs/access-log.md explains every key to users and changes
together with this file.
"""

import errno
import re
from typing import Final

import msgspec

FORMAT_VERSION: Final = 1
"""Stands in each `mount` record as `format`; raised when a key changes its meaning."""

OPERATIONS: Final = (
    "lookup", "getattr", "setattr", "readlink", "mknod", "mkdir", "unlink", "rmdir", "symlink",
    "rename", "link", "create", "open", "read", "write", "flush", "release", "fsync", "opendir",
    "readdir", "releasedir", "fsyncdir", "statfs", "setxattr", "getxattr", "listxattr",
    "removexattr",
)  # fmt: skip
"""Operations of clients, named after their system calls."""

EVENTS: Final = ("mount", "unmount", "gap", "restart", "update", "checkpoint", "agent")
"""What fusevol itself reports in the log; such records have no caller."""

OK: Final = "ok"


class AccessRecord(msgspec.Struct, omit_defaults=True, gc=False):
    """One line of the access log.

    `time` is the end of the operation, RFC 3339 in UTC with microseconds. `seq` counts the
    records of one log without gaps. `us` is the duration in microseconds. `path` and `to` start
    with "/" and are relative to the volume, in the encoding of `fusevol.names`, as are `target`,
    `name`, `volume` and `source`. `result` is "ok" or the name of an errno.
    """

    time: str = ""
    seq: int = -1
    volume: str = ""
    op: str = ""
    path: str | None = None
    ino: int | None = None
    """Inode number as clients see it."""
    result: str = ""
    us: int = -1
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    """Process (not thread) in fusevol's pid namespace; 0 when the kernel acts on its own or the
    caller is not visible there."""
    comm: str | None = None
    """Process name, from /proc/PID/comm, at the time of the operation (of the open for I/O)."""
    container: str | None = None
    """Full container id; absent for a process of the host, "?" if unknown."""
    identity_error: str | None = None
    """Why the caller could not be looked up: name of an errno, or "invisible"."""

    # What belongs to single operations.
    to: str | None = None
    """rename, link: the new path."""
    target: str | None = None
    """symlink, readlink: what the link says."""
    name: str | None = None
    """setxattr, getxattr, removexattr: name of the attribute."""
    flags: str | None = None
    """open, create: "O_RDWR|O_APPEND"; rename: "NOREPLACE" or "EXCHANGE"; fsync: "DATASYNC"."""
    mode: str | None = None
    """Octal, as for chmod(1); mknod: with the file type bits."""
    rdev: str | None = None
    """mknod of a device: "major:minor"."""
    owner: int | None = None
    """setattr: new uid."""
    group: int | None = None
    """setattr: new gid."""
    atime: str | None = None
    """setattr: new access time, RFC 3339 with nanoseconds."""
    mtime: str | None = None
    """setattr: new modification time, RFC 3339 with nanoseconds."""
    offset: int | None = None
    """read, write: position in bytes; readdir: position cookie."""
    size: int | None = None
    """read, write: bytes asked for; setattr: new length; setxattr, getxattr: length of the value;
    listxattr: length of the list."""
    entries: int | None = None
    """readdir: entries returned by this call."""
    bytes_read: int | None = None
    """read: bytes returned; release: bytes read through this handle."""
    bytes_written: int | None = None
    """write: bytes written; release: bytes written through this handle."""
    count: int | None = None
    """read, write: how many of them the record stands for, if it is more than one; `size` and bytes
    are those of all together then, `us` too, and `offset` is that of the first."""

    # What belongs to fusevol's own events.
    format: int | None = None
    """mount: FORMAT_VERSION."""
    source: str | None = None
    """mount: the source on the host."""
    level: str | None = None
    """mount, update: the record level."""
    filter: str | None = None
    """mount, update: the options that say what is recorded and how it is gathered; absent where all
    is."""
    reason: str | None = None
    """unmount, gap, restart: why. Operations: why they were refused, where it was not the host."""
    lost: int | None = None
    """gap: how many operations went unrecorded."""
    since: str | None = None
    """gap: time of the first operation that went unrecorded; read, write with a `count`: beginning
    of the first."""

    signature: str | None = None
    """checkpoint: over all records before it, Ed25519 in base64."""

    hash: str | None = None
    """Chain over this and the previous record, where enabled; always the last key."""


class MalformedRecordError(ValueError):
    """A line that is not an access record."""


_encode: Final = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(AccessRecord)

_BREAKING: Final = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")
"""DEL, U+0080 to U+009F, U+2028 and U+2029 in UTF-8."""
_DEL: Final = 0x7F


def encode(record: AccessRecord) -> bytes:
    """Return the record as one JSON object, without the newline."""
    line = _encode(record)
    return line if line.isascii() and _DEL not in line else one_line(line)


def one_line(text: bytes) -> bytes:
    """Return a JSON text that means the same and is one line to every reader.

    JSON escapes the control characters of ASCII but DEL. Some readers and terminals also end a line
    at U+0085, U+2028 or U+2029, or obey the control characters from U+0080 on.
    """
    # Most other text has none of these bytes, and to look for them costs less.
    if _DEL not in text and 0xC2 not in text and 0xE2 not in text:
        return text
    return _BREAKING.sub(lambda one: b"\\u%04x" % ord(one[0].decode()), text)


def decode(line: bytes) -> AccessRecord:
    """Return the record that stands in `line`; keys of newer versions are ignored.

    Raises:
        MalformedRecordError: `line` is not a JSON object, lacks a required key or has a wrong type.
    """
    try:
        record = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRecordError(str(error)) from error
    if not record.time or record.seq < 0 or not record.op or not record.result or record.us < 0:
        raise MalformedRecordError("required key missing: time, seq, op, result or us")
    return record


def errno_name(number: int) -> str:
    """Return "ENOENT" for 2; a number without a name becomes "errno 4711"."""
    return errno.errorcode.get(number, f"errno {number}")
