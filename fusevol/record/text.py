"""Access records as text for people: one line each, whatever the record holds.

Containers choose names of files, processes and attributes, and anybody may have written the log.
So nothing of a record reaches the terminal that could move the cursor, turn the direction of
writing, hide itself or begin a new line: such characters are written as escapes, which cannot be
mistaken for a name, as the log doubles a backslash that belongs to one (`fusevol.names`). What
holds a space is quoted, so that no name can be mistaken for several columns.
"""

import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Final

import click

from fusevol.record.container_ids import short_form
from fusevol.record.record import EVENTS, OK, AccessRecord
from fusevol.terminal import printable, quoted

CHANGES: Final = frozenset({
    "setattr", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link", "create", "write",
    "setxattr", "removexattr",
})  # fmt: skip
"""Operations that change the volume."""

_TIME: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})\.([0-9]{3,9})Z")

_DETAILS: Final = (
    "flags", "mode", "rdev", "owner", "group", "size", "atime", "mtime", "name", "offset",
    "entries", "bytes_read", "bytes_written", "count", "source", "level", "filter", "reason",
)  # fmt: skip


def format_record(
    record: AccessRecord, *, color: bool = False, name_of: Callable[[str], str | None] | None = None
) -> str:
    """Return `record` as one line without a newline.

    The columns are local time, operation, path, result, details, duration and caller (uid, pid,
    process name, container). Paths are never cut, so long ones move the columns behind them.

    Args:
        record: what to show.
        color: add escape sequences of ANSI terminals.
        name_of: returns the name of a container by its id, None if it has none.
    """
    if record.op == "gap":
        return _format_gap(record, color)
    failed = record.result != OK
    op = f"{quoted(record.op):<11}"
    result = f"{quoted(record.result):<9}"
    rest = f"{_details(record):<16} {_duration(record.us):>7}  {_caller(record, name_of)}".rstrip()
    if color:
        if failed:
            op, result = (click.style(column, fg="red", bold=True) for column in (op, result))
        elif record.op in EVENTS:
            op = click.style(op, fg="magenta", bold=True)
        elif record.op in CHANGES:
            op = click.style(op, fg="yellow")
    return f"{_local(record.time)}  {op} {_what(record):<40} {result} {rest}"


def _format_gap(record: AccessRecord, color: bool) -> str:
    lost = "SOME" if record.lost is None else record.lost
    since = f" SINCE {_local(record.since)}" if record.since is not None else ""
    why = f": {printable(record.reason)}" if record.reason is not None else ""
    line = f"{_local(record.time)}  gap  !!! {lost} OPERATIONS WERE NOT RECORDED{since}{why} !!!"
    return click.style(line, fg="bright_white", bg="red", bold=True) if color else line


def _local(time: str) -> str:
    """2026-11-23T10:00:00.123456Z -> 2026-11-23 11:00:00.123."""
    if parts := _TIME.fullmatch(time):
        try:
            return f"{_local_second(parts[1])}.{parts[2][:3]}"
        except (ValueError, OverflowError):
            pass
    return quoted(time)


@lru_cache
def _local_second(second: str) -> str:
    return datetime.fromisoformat(f"{second}Z").astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _what(record: AccessRecord) -> str:
    if record.path is None:
        return f"volume {quoted(record.volume)}"
    leads_to = record.to if record.to is not None else record.target
    if leads_to is None:
        return quoted(record.path)
    return f"{quoted(record.path)} -> {quoted(leads_to)}"


def _details(record: AccessRecord) -> str:
    if record.op in ("read", "write"):
        return _range(record)
    values = ((key, getattr(record, key)) for key in _DETAILS)
    return " ".join(f"{key}={quoted(str(value))}" for key, value in values if value is not None)


def _range(record: AccessRecord) -> str:
    """4096@0 for 4096 bytes from offset 0 on; 100/4096@0 if only 100 of them were read."""
    moved = record.bytes_read if record.op == "read" else record.bytes_written
    short = f"{moved}/" if moved is not None and moved != record.size else ""
    return f"{short}{record.size}@{record.offset}"


def _duration(us: int) -> str:
    if us < 1000:
        return f"{us}us"
    if us < 999_950:
        return f"{us / 1000:.1f}ms"
    return f"{us / 1_000_000:.1f}s"


def _caller(record: AccessRecord, name_of: Callable[[str], str | None] | None) -> str:
    """The caller; nothing for fusevol's own events."""
    if record.uid is None and record.pid is None:
        return ""
    words = [f"uid={record.uid}", f"pid={record.pid}"]
    if record.comm is not None:
        words.append(quoted(record.comm))
    if record.container is not None:
        shown = short_form(record.container)
        name = name_of(record.container) if name_of is not None else None
        words.append(quoted(shown) if name is None else f"{quoted(name)}({quoted(shown)})")
    if record.identity_error is not None:
        words.append(f"identity_error={quoted(record.identity_error)}")
    return " ".join(words)
