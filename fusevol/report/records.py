"""Single records for the page, packed: what repeats is written once, and referred to by number."""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, Final

from fusevol.record.record import AccessRecord
from fusevol.report.aggregate import Aggregate
from fusevol.report.page import json_for_html
from fusevol.terminal import printable

MOST: Final = 20_000
MOST_BYTES: Final = 3_000_000
"""What names and details of all records may have together in the page; they can be long."""

_OWN: Final = frozenset((
    "time", "seq", "volume", "op", "path", "to", "target", "result", "us", "uid", "gid", "pid",
    "comm", "container", "ino", "lost", "hash", "signature",
))  # fmt: skip
_DETAILS: Final = tuple(key for key in AccessRecord.__struct_fields__ if key not in _OWN)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Texts:
    """Texts, each once, known by its number. What comes out is harmless wherever it is shown."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self.size = 0
        self._numbers: dict[str, int] = {}

    def number(self, text: str | None) -> int | None:
        """Return the number of `text`, None for None."""
        if text is None:
            return None
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self.all)
            self.all.append(printable(text))
            self.size += len(json_for_html(self.all[-1]).encode())
        return number


def chosen(aggregate: Aggregate) -> list[AccessRecord]:
    """Return the records to show: the newest, and older ones that matter; the newest first."""
    # Each kind may use so much of the room, with what those before it have used.
    kinds = (
        (0.1, aggregate.events), (0.3, aggregate.slowest), (0.5, aggregate.failed),
        (1.0, aggregate.newest),
    )  # fmt: skip
    texts = Texts()
    found: dict[tuple[str, int, str], AccessRecord] = {}
    for part, kind in kinds:
        for record in kind.first():
            if len(found) == MOST or texts.size > part * MOST_BYTES:
                break
            for text in (record.path, record.to, record.target, record.comm, details(record)):
                texts.number(text)
            found[record.volume, record.seq, record.time] = record
    return sorted(found.values(), key=attrgetter("time", "seq"), reverse=True)


def packed(
    records: Iterable[AccessRecord], container_name: Callable[[str | None], str]
) -> dict[str, Any]:
    """Return records as columns; texts are numbers in `texts`, callers numbers in `callers`."""
    texts = Texts()
    callers: dict[tuple[Any, ...], int] = {}
    columns: dict[str, list[Any]] = {
        key: []
        for key in ("time", "seq", "volume", "op", "path", "to", "result", "us", "caller", "more")
    }
    for record in records:
        caller = (record.uid, record.pid, record.comm, record.container)
        row = (
            moment(record.time), record.seq, texts.number(record.volume), texts.number(record.op),
            texts.number(record.path),
            texts.number(record.to if record.to is not None else record.target),
            texts.number(record.result), record.us, callers.setdefault(caller, len(callers)),
            texts.number(details(record)),
        )  # fmt: skip
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    known = [
        [uid, pid, texts.number(comm), texts.number(container_name(container)) if pid is not None
         else None]
        for uid, pid, comm, container in callers
    ]  # fmt: skip
    return {**columns, "callers": known, "texts": texts.all}


def moment(time: str) -> int | str:
    """Return a time of the log in microseconds since the epoch; as text if it is not a time."""
    try:
        when = datetime.fromisoformat(time)
        return (when - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, TypeError, OverflowError):
        return printable(time)


def details(record: AccessRecord) -> str | None:
    """Return what a record says besides what has a column of its own; None if that is nothing."""
    return " ".join(_details(record)) or None


def _details(record: AccessRecord) -> Iterator[str]:
    """Yield words; 4096@0 is 4096 bytes from offset 0 on, 100/4096@0 if only 100 were moved."""
    if record.op == "gap":
        yield f"{'some' if record.lost is None else record.lost} operations were not recorded"
    keys: Iterable[str] = _DETAILS
    if record.op in ("read", "write"):
        moved = record.bytes_read if record.op == "read" else record.bytes_written
        short = f"{moved}/" if moved is not None and moved != record.size else ""
        yield f"{short}{record.size}@{record.offset}"
        keys = ("count", "since", "reason")
    for key in keys:
        value = getattr(record, key)
        if value is not None:
            yield f"{key}={value}"
