"""What a report says, as the values that its page shows; whatever the log holds is harmless in it.

A table is a dict: its columns, each a heading and a kind (what its values are, and so how they are
shown and sorted), and its rows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from fusevol.record.container_ids import short_form
from fusevol.record.record import EVENTS, OK
from fusevol.report.aggregate import MISSES, Aggregate, FailedPath, Groups
from fusevol.report.durations import percentiles_us
from fusevol.report.heaviest import Heaviest
from fusevol.report.measures import Numbers, OperationNumbers
from fusevol.report.reading import ReportInput
from fusevol.report.records import chosen, details, moment, packed
from fusevol.report.timeline import Span, Timeline
from fusevol.terminal import printable

PERCENTS: Final = (50, 95, 99)
CLASSES: Final = ("read", "write", "change", "open", "look")

_COLUMNS: Final = 600
_ROWS: Final = 50

_CALLER_COLUMNS: Final = (
    ("Operations", "count"), ("Failed", "errors"), ("Read", "bytes"), ("Written", "bytes"),
    ("Total time", "share"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Where a report comes from.

    Attributes:
        version: of fusevol.
        host: where the report was made.
        made: when, as the log writes times.
        choice: the options that say which records were asked for; empty for all.
        command: what shows all records of the report.
        name_of: returns what engines call a container, given its id.
    """

    version: str
    host: str
    made: str
    choice: str
    command: str
    name_of: Callable[[str], str | None]


def document(reading: ReportInput, about: About) -> dict[str, Any]:
    """Return the report on what was read."""
    whole = reading.aggregate
    names = _ContainerNames(about.name_of)
    return {
        "about": _about(reading, about),
        "totals": _totals(whole),
        "trouble": _trouble(reading),
        "timeline": _timeline(whole.timeline),
        "tables": {
            "ops": _ops(whole),
            "volumes": _groups(whole.volumes, "Volume", printable),
            "containers": _groups(whole.containers, "Container", names.of),
            "programs": _groups(whole.programs, "Program", _name),
            "processes": _processes(whole.processes, names),
            "users": _groups(whole.users, "User id", _name),
            "moved": _moved(whole),
            "busiest": _busiest(whole),
            "largest": _largest(whole),
            "errors": _errors(whole),
            "failures": _failures(whole, names),
            "failed_paths": _failed_paths(whole.failed_paths),
            "missed_paths": _failed_paths(whole.missed_paths),
            "slowest": _slowest(whole, names),
            "events": _events(whole),
        },
        "records": _records(whole, names),
    }


class _ContainerNames:
    """Containers as people know them: the name that an engine has given, and the short id."""

    def __init__(self, name_of: Callable[[str], str | None]) -> None:
        self._name_of = name_of
        self._names: dict[str, str] = {}

    def of(self, container: str | None) -> str:
        """Return what to call a container, or the host."""
        if container is None:
            return "host"
        if container not in self._names:
            name = self._name_of(container)
            short = short_form(container)
            self._names[container] = printable(short if name is None else f"{name} ({short})")
        return self._names[container]


def _about(reading: ReportInput, about: About) -> dict[str, Any]:
    whole = reading.aggregate
    volumes = [printable(volume) for volume, _ in whole.volumes.first(4, attrgetter("count"))]
    return {
        "version": about.version,
        "host": printable(about.host),
        "made": moment(about.made),
        "choice": printable(about.choice),
        "command": printable(about.command),
        "volumes": volumes,
        "files": [printable(path) for path in reading.files],
        "first": moment(whole.first) if whole.first else None,
        "last": moment(whole.last) if whole.last else None,
    }


def _totals(whole: Aggregate) -> dict[str, Any]:
    every = OperationNumbers()
    for numbers in whole.ops.values.values():
        every.plus(numbers)
    return {
        "count": every.count,
        "errors": every.errors,
        "misses": whole.missed_count,
        "bytes_read": every.bytes_read,
        "bytes_written": every.bytes_written,
        "us": every.us,
        "longest_us": every.longest_us,
        "percentiles_us": every.percentiles_us(*PERCENTS),
        "containers": sum(key is not None for key in whole.containers.values),
        "programs": len(whole.programs.values),
        "users": len(whole.users.values),
    }


def _timeline(timeline: Timeline) -> dict[str, Any]:
    # What has no time was counted for the beginning of all times.
    spans = {start: span for start, span in timeline.spans.items() if start}
    chart = Timeline(timeline.width_s, spans)
    chart.fit(_COLUMNS)
    return {
        "width_s": chart.width_s,
        "classes": CLASSES,
        "spans": [_span(start, span) for start, span in sorted(chart.spans.items())],
    }


def _span(start: int, span: Span) -> list[Any]:
    return [
        start,
        [span.counts[one] for one in CLASSES],
        span.errors,
        span.lost,
        span.bytes_read,
        span.bytes_written,
        percentiles_us(span.count_by_us, *PERCENTS),
    ]


def _table(
    columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[Any]], total: int, missed: int = 0
) -> dict[str, Any]:
    return {"columns": columns, "rows": list(rows), "total": total, "missed": missed}


def _ops(whole: Aggregate) -> dict[str, Any]:
    columns = (
        ("Operation", "text"), ("Operations", "count"), ("Failed", "errors"), ("Read", "bytes"),
        ("Written", "bytes"), ("p50", "us"), ("p95", "us"),
        ("p99", "us"), ("Max", "us"), ("Total time", "share"),
    )  # fmt: skip
    ops = whole.ops
    rows = (
        (printable(op), one.count, one.errors, one.bytes_read, one.bytes_written,
         *one.percentiles_us(*PERCENTS), one.longest_us, one.us)
        for op, one in ops.first(_ROWS, attrgetter("us"))
        if one.count
    )  # fmt: skip
    return _table(columns, rows, len(ops.values), ops.missed)


def _groups(groups: Groups, heading: str, show: Callable[[Any], str]) -> dict[str, Any]:
    rows = ((show(key), *_row(one)) for key, one in groups.first(_ROWS, attrgetter("us")))
    columns = ((heading, "text"), *_CALLER_COLUMNS)
    return _table(columns, rows, len(groups.values), groups.missed)


def _row(numbers: Numbers) -> tuple[int, ...]:
    return (
        numbers.count, numbers.errors, numbers.bytes_read, numbers.bytes_written, numbers.us
    )  # fmt: skip


def _processes(processes: Groups, names: _ContainerNames) -> dict[str, Any]:
    columns = (
        ("Process", "text"), ("PID", "id"), ("User id", "id"), ("Container", "text"),
        *_CALLER_COLUMNS,
    )  # fmt: skip
    rows = (
        (_name(comm), pid, uid, names.of(container), *_row(numbers))
        for (_volume, uid, pid, comm, container), numbers in processes.first(
            _ROWS, attrgetter("us")
        )
    )
    return _table(columns, rows, len(processes.values), processes.missed)


def _moved(whole: Aggregate) -> dict[str, Any]:
    columns = (("File", "path"), ("Read", "bytes"), ("Written", "bytes"), ("Total", "bytebar"))
    rows = (
        (_name(path), one.bytes_read, one.bytes_written, one.moved)
        for path, one in whole.moved.first(_ROWS, attrgetter("moved"))
        if one.moved
    )
    return _table(columns, rows, len(whole.moved.values), whole.moved.missed)


def _busiest(whole: Aggregate) -> dict[str, Any]:
    rows = ((_name(path), count) for path, count in whole.paths.first(_ROWS, int))
    columns = (("Path", "path"), ("Operations", "countbar"))
    return _table(columns, rows, len(whole.paths.values), whole.paths.missed)


def _largest(whole: Aggregate) -> dict[str, Any]:
    rows = ((_name(path), size) for path, size in whole.reach.first(_ROWS, int))
    return _table(
        (("File", "path"), ("Highest offset used", "bytebar")), rows, len(whole.reach.values)
    )


def _errors(whole: Aggregate) -> dict[str, Any]:
    columns = (("Error", "text"), ("Operation", "text"), ("Times", "countbar"), ("Note", "text"))
    rows = (
        (printable(result), printable(op), count,
         "does not exist" if (op, result) in MISSES else "")
        for (op, result), count in whole.results.first(_ROWS, int)
    )  # fmt: skip
    return _table(columns, rows, len(whole.results.values), whole.results.missed)


def _failures(whole: Aggregate, names: _ContainerNames) -> dict[str, Any]:
    columns = (
        ("Error", "text"), ("Operation", "text"), ("Program", "text"), ("User id", "id"),
        ("Container", "text"), ("Times", "count"), ("First", "time"), ("Last", "time"),
        ("Last path", "path"),
    )  # fmt: skip
    rows = (
        (printable(result), printable(op), _name(comm), uid, names.of(container), one.count,
         moment(one.first), moment(one.last), _name(one.path))
        for (op, result, comm, uid, container), one in whole.failures.first(
            _ROWS, attrgetter("count")
        )
    )  # fmt: skip
    return _table(columns, rows, len(whole.failures.values), whole.failures.missed)


def _failed_paths(paths: Heaviest[FailedPath, int]) -> dict[str, Any]:
    columns = (("Path", "path"), ("Operation", "text"), ("Error", "text"), ("Times", "count"))
    rows = (
        (_name(path), printable(op), printable(result), count)
        for (op, result, path), count in paths.first(_ROWS, int)
    )
    return _table(columns, rows, len(paths.values), paths.missed)


def _slowest(whole: Aggregate, names: _ContainerNames) -> dict[str, Any]:
    columns = (
        ("Took", "us"), ("Operation", "text"), ("Path", "path"), ("Result", "text"),
        ("Time", "time"), ("Process", "text"), ("PID", "id"), ("Container", "text"),
    )  # fmt: skip
    rows = [
        (one.us, printable(one.op), _name(one.path), printable(one.result), moment(one.time),
         _name(one.comm), one.pid, names.of(one.container))
        for one in whole.slowest.first()[:_ROWS]
    ]  # fmt: skip
    return _table(columns, rows, len(rows))


def _events(whole: Aggregate) -> dict[str, Any]:
    columns = (("Time", "time"), ("Volume", "text"), ("Event", "text"), ("What", "text"))
    rows = (
        (moment(one.time), printable(one.volume), printable(one.op), printable(details(one) or ""))
        for one in whole.events.first()
    )
    return _table(columns, rows, whole.events.count)


def _trouble(reading: ReportInput) -> dict[str, Any]:
    """What makes the log, and so the report, incomplete."""
    whole, numbers, skipped = reading.aggregate, reading.continuity, reading.skipped
    return {
        "lost": whole.lost,
        "gaps": whole.event_counts["gap"],
        "missing": numbers.missing,
        "holes": [
            [printable(hole.volume), hole.first, hole.last, moment(hole.time)]
            for hole in numbers.holes
        ],
        "skipped": skipped.count,
        "skipped_first": [
            f"{printable(path)}, line {number}: {printable(reason)}"
            for path, number, reason in skipped.first
        ],
        "restarts": whole.event_counts["restart"],
        "broken_ends": sum(
            one.op == "unmount" and one.result != OK for one in whole.events.first()
        ),
    }


def _records(whole: Aggregate, names: _ContainerNames) -> dict[str, Any]:
    records = chosen(whole)
    operations = sum(max(one.count or 1, 1) for one in records if one.op not in EVENTS)
    return {**packed(records, names.of), "others": whole.count - operations}


def _name(value: object) -> str:
    return "-" if value is None else printable(str(value))
