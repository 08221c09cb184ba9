"""Frames as plain text and as JSON, for scripts and for terminals that can no more."""

import time
from collections.abc import Iterator
from typing import Any, Final

from fusevol.top.activity import total
from fusevol.top.collector import Frame, VolumeFrame
from fusevol.top.views import (
    VIEWS,
    Row,
    ViewColumn,
    arranged,
    chosen,
    column,
    columns,
    duration,
    name_of,
    rows,
    short,
    title,
)

UNKNOWN: Final = "-"


def as_rates(frame: Frame, only: str | None = None) -> list[str]:
    """Return what happened on all volumes of a frame, or on what is mounted at `only`."""
    done = total(one.total for one in chosen(frame, only) if one.total is not None)
    numbers = (done.count, done.errors, done.bytes_read, done.bytes_written)
    ops, errors, read, written = (short(number / frame.seconds) for number in numbers)
    p99 = done.percentile_us(99)
    return [
        f"{ops} ops/s",
        f"{errors} errors/s",
        f"read {read}/s",
        f"written {written}/s",
        f"p99 {UNKNOWN if p99 is None else duration(p99)}",
    ]


def counted(count: int, what: str) -> str:
    """Return "1 volume" or "2 volumes"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def notes(frame: Frame) -> Iterator[str]:
    """Yield what the user has to know."""
    if not frame.volumes:
        yield "no mounts are served"
    for volume in frame.volumes:
        yield from (f"{name_of(volume.served)}: {note}" for note in volume.notes)
    yield from about_logs(frame.volumes)


def about_logs(volumes: list[VolumeFrame]) -> Iterator[str]:
    """Yield what paths, processes and containers lack."""
    if unknown := [name_of(one.served) for one in volumes if not one.has_log]:
        yield f"paths, processes and containers are unknown for {', '.join(unknown)}: no log"
    if (share := log_share(volumes)) < 1:
        yield f"paths, processes and containers: estimated from {share:.0%} of the records"


def log_share(volumes: list[VolumeFrame]) -> float:
    """Return how much of the log was read where that was the least; 1 is all."""
    return min((volume.share for volume in volumes), default=1.0)


def as_text(frame: Frame, by: str, text: str, most: int) -> str:
    """Return a frame as text without a terminal's escapes.

    Args:
        frame: what to show.
        by: name of the column whose largest numbers come first.
        text: what names have to hold.
        most: rows of each view.
    """
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(frame.at))
    scope = f"{when}  {frame.seconds:.1f} s  {counted(len(frame.volumes), 'volume')}"
    lines = ["  ".join((scope, *as_rates(frame))), *(f"! {note}" for note in notes(frame))]
    for view in VIEWS:
        shown = arranged(rows(view, frame), column(view, by), text, most=most)
        if shown:
            lines += ["", *_table(view, shown)]
    return "\n".join(lines) + "\n"


def as_document(frame: Frame, by: str, text: str, most: int | None) -> dict[str, Any]:
    """Return a frame in the types of JSON; rows as for `as_text`, all if `most` is None."""
    at, fraction = divmod(frame.at, 1)
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    document: dict[str, Any] = {
        "time": f"{when}.{fraction * 1e6:06.0f}Z",
        "seconds": round(frame.seconds, 6),
        "share_of_log": round(log_share(frame.volumes), 3),
    }
    for view in VIEWS:
        found = rows(view, frame)
        shown = arranged(found, column(view, by), text, most=len(found) if most is None else most)
        document[view] = [_values(row, columns(view)) for row in shown]
    return document


def _values(row: Row, shown: tuple[ViewColumn, ...]) -> dict[str, Any]:
    values: dict[str, Any] = dict(row.identity)
    for one in shown:
        value = one.value(row)
        values[one.name] = round(value, 3) if isinstance(value, float) else value
    failures = row.activity.failures if row.activity is not None else {}
    values["errors"] = {name: round(n / row.seconds, 3) for name, n in failures.items()}
    if row.notes:
        values["notes"] = row.notes
    return values


def _table(view: str, shown: list[Row]) -> Iterator[str]:
    cells = columns(view)
    yield " ".join(f"{one.title:>{one.width}}" for one in cells) + f"  {title(view)}"
    for row in shown:
        yield " ".join(f"{cell_text(row, one):>{one.width}}" for one in cells) + f"  {row.name}"


def cell_text(row: Row, of: ViewColumn) -> str:
    """Return a number of a row as text."""
    value = of.value(row)
    return UNKNOWN if value is None else of.text(value)
