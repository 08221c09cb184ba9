"""`fusevol log stats`: how often, how much, how long; of a log, or of what happens right now."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import click
import msgspec

from fusevol.cli.choices import OneOf
from fusevol.cli.log.output import (
    by_id,
    missing_in,
    name_of,
    report,
    report_missing,
    rotated_option,
)
from fusevol.cli.options import log_options
from fusevol.errors import FusevolError, UsageError
from fusevol.logs.continuity import KEYS, Continuity
from fusevol.logs.decoding import projection
from fusevol.logs.filter import Filter
from fusevol.logs.follow import follow
from fusevol.logs.parallel import in_order, usable_processors
from fusevol.logs.reader import Predicate, Skipped
from fusevol.logs.sections import Section, Tally, is_stream, opened
from fusevol.logs.summary import GROUPINGS, Key, Summary, Totals
from fusevol.record.container_ids import short_form
from fusevol.record.record import one_line
from fusevol.terminal import printable, quoted

_PERCENTS: Final = (50, 95, 99)
_ROWS: Final = 20

_COLUMNS: Final = (
    f"{'count':>10} {'errors':>8} {'bytes read':>14} {'bytes written':>14} "
    f"{'p50 us':>8} {'p95 us':>8} {'p99 us':>8} {'total us':>13} {'share':>6}"
)

Ends = list[tuple[int, Skipped, Continuity]]
"""What was skipped and missed in which section, by its index."""
Print = Callable[[Summary, Continuity | None], None]


@click.command()
@click.option(
    "--by",
    type=OneOf(tuple(GROUPINGS)),
    default="op",
    show_default=True,
    help="Group by this; each value is a row.",
)
@click.option(
    "-n",
    "--rows",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Show N rows, those with the highest total time.  [default: {_ROWS}; all with --json]",
)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0, min_open=True, max=86_400),
    metavar="SECONDS",
    help="Follow the log; every SECONDS, show the records since the last time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for each interval.")
@rotated_option
@log_options
def stats(
    sources: list[str],
    wanted: Filter,
    by: str,
    rows: int | None,
    interval_s: float | None,
    as_json: bool,
    rotated: bool,
) -> None:
    """Summarize a log: operations, errors, bytes, durations.

    FILE is an access log, or - for standard input; its rotated files are read, too. Durations are
    the time in fusevol, in microseconds: p50 (median), p95, p99 and total. Share is the row's part
    of the total time.

    \b
    Where the time goes, every two seconds:
      fusevol log stats --interval 2 --mount /mnt/data
    What failed since yesterday, by file:
      fusevol log stats --by path --result failed --since yesterday data.log
    How much each container writes:
      fusevol log stats --by container --op write --volume data
    p99 of reads, for monitoring:
      fusevol log stats --op read --since 5m --json data.log | jq .groups[].p99_us
    """
    wanted = by_id(wanted)
    show = _printer(as_json, rows, is_live=interval_s is not None)
    if interval_s is None:
        _whole_log(sources, by, wanted, rotated, show)
    elif len(sources) > 1:
        raise UsageError("--interval: only one log can be followed; give one FILE")
    else:
        _live(sources[0], by, wanted.compile(), interval_s, show)


def _whole_log(sources: list[str], by: str, wanted: Filter, rotated: bool, show: Print) -> None:
    summary = Summary(by)
    tally = Tally()
    numbers = None
    try:
        with opened(sources, with_rotated=rotated) as sections:
            processes = 1 if any(map(is_stream, sections)) else usable_processors()
            ends: Ends = []
            for part, part_ends in _parts(sections, by, wanted, processes):
                summary.merge(part)
                ends += part_ends
            ends.sort(key=lambda end: end[0])
            for index, skipped, _numbers in ends:
                tally.add(sections[index], skipped)
            numbers = missing_in(sections, (end[2] for end in ends), wanted)
        show(summary, numbers)
    finally:
        report(tally.skipped)
        if numbers is not None:
            report_missing(numbers)


def _parts(
    sections: list[Section], by: str, wanted: Filter, processes: int
) -> Iterator[tuple[Summary, Ends]]:
    """Yield a summary from each process, with what it skipped and missed."""
    keep = wanted.compile()
    kind = projection((*Summary(by).keys, *wanted.keys, *KEYS))

    def work(indices: range) -> Iterator[tuple[Summary, Ends]]:
        summary = Summary(by)
        ends: Ends = []
        for index in indices:
            skipped, numbers = Skipped(), Continuity(wanted, sections[index].path)
            for batch in sections[index].batches(skipped, kind):
                numbers.add_batch(batch)
                summary.add(filter(keep, filter(None, batch.records)))
            ends.append((index, skipped, numbers))
        yield summary, ends

    shares = [range(first, len(sections), processes) for first in range(processes)]
    with contextlib.closing(in_order(shares, work, processes)) as results:
        yield from (result for _share, result in results)


def _live(source: str, by: str, keep: Predicate, interval_s: float, show: Print) -> None:
    skipped = Skipped()
    counter = _Counter(source, by, keep, skipped)
    try:
        counter.start()
        has_ended = False
        while not has_ended:
            counter.join(interval_s)
            has_ended = not counter.is_alive()
            if sys.stdout.isatty():
                click.clear()
            show(counter.take(), None)
        counter.fail_if_failed()
    finally:
        report(skipped)


class _Counter(threading.Thread):
    """Counts what comes into a log; a thread, as it waits for the log and not for the clock."""

    def __init__(self, source: str, by: str, keep: Predicate, skipped: Skipped) -> None:
        super().__init__(daemon=True)
        self._entries = follow(source, 0, keep, skipped)
        self._by = by
        self._lock = threading.Lock()
        self._summary = Summary(by)
        self._error: FusevolError | None = None

    def run(self) -> None:
        try:
            for _line, record in self._entries:
                with self._lock:
                    self._summary.add((record,))
        except FusevolError as error:
            self._error = error

    def take(self) -> Summary:
        """Return what has been counted since the last time."""
        with self._lock:
            summary, self._summary = self._summary, Summary(self._by)
        return summary

    def fail_if_failed(self) -> None:
        """Raises what has ended the thread."""
        if self._error is not None:
            raise self._error


def _printer(as_json: bool, rows: int | None, *, is_live: bool) -> Print:
    if as_json:
        return lambda summary, numbers: click.echo(
            one_line(msgspec.json.encode(_document(summary, numbers, rows)))
        )

    def print_table(summary: Summary, _numbers: Continuity | None) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S: ") if is_live else ""
        click.echo(now + "\n".join(_table(summary, rows or _ROWS)))

    return print_table


def _document(summary: Summary, numbers: Continuity | None, rows: int | None) -> dict[str, Any]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "first": summary.first or None,
        "last": summary.last or None,
        "count": summary.count,
        "lost": summary.lost,
        "missing": numbers.missing if numbers is not None else 0,
        "holes": [
            {"volume": hole.volume, "first": hole.first, "last": hole.last}
            for hole in (numbers.holes if numbers is not None else ())
        ],
        "by": summary.by,
        "groups": [_row(summary.by, *group) for group in summary.by_time()[:rows]],
    }


def _row(by: str, key: Key, totals: Totals) -> dict[str, Any]:
    named = {"pid": key[0], "comm": key[1]} if by == "process" else {by: key}
    percentiles = zip(_PERCENTS, totals.percentiles_us(*_PERCENTS), strict=True)
    return {
        **named,
        "count": totals.count,
        "errors": totals.errors,
        "bytes_read": totals.bytes_read,
        "bytes_written": totals.bytes_written,
        **{f"p{percent}_us": us for percent, us in percentiles},
        "total_us": totals.total_us,
    }


def _table(summary: Summary, rows: int) -> Iterator[str]:
    lost = f"; {summary.lost} WERE NOT RECORDED" if summary.lost else ""
    when = f", {printable(summary.first)} to {printable(summary.last)}" if summary.first else ""
    yield f"{summary.count} operations{when}{lost}"
    yield f"{_COLUMNS}  {summary.by}"
    groups = summary.by_time()
    all_us = sum(totals.total_us for _key, totals in groups) or 1
    for key, totals in groups[:rows]:
        p50, p95, p99 = totals.percentiles_us(*_PERCENTS)
        yield (
            f"{totals.count:>10} {totals.errors:>8} {totals.bytes_read:>14} "
            f"{totals.bytes_written:>14} {p50:>8} {p95:>8} {p99:>8} {totals.total_us:>13} "
            f"{totals.total_us / all_us:>6.1%}  {_name(summary.by, key)}"
        )
    if len(groups) > rows:
        yield f"and {len(groups) - rows} more; -n shows more rows"


def _name(by: str, key: Key) -> str:
    if by == "process":
        pid, comm = key
        return f"{pid} {quoted(comm)}" if comm is not None else f"{pid}"
    if key is None:
        return "-"
    if by == "container":
        name = name_of(key)
        return quoted(key) if name is None else f"{quoted(name)}({quoted(short_form(key))})"
    return quoted(str(key))
