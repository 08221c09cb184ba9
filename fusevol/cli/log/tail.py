"""`fusevol log tail`: the last records, and those that come."""

import sys
from collections.abc import Iterator

import click

from fusevol.cli.log.output import by_id, report, show_json, show_text
from fusevol.cli.options import Parsed, color_option, log_options
from fusevol.errors import UsageError
from fusevol.logs.filter import Filter
from fusevol.logs.follow import follow as follow_log
from fusevol.logs.reader import Predicate, Skipped, last, read
from fusevol.record.record import AccessRecord

Entries = Iterator[tuple[bytes, AccessRecord]]


def _parse_count(text: str) -> int | None:
    if text == "all":
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"invalid number {text!r}: expected a number of records, or all")
    return min(int(text), sys.maxsize)


@click.command()
@click.option(
    "-f", "--follow", is_flag=True, help="Keep running and show new records as they are written."
)
@click.option(
    "-n",
    "--lines",
    "count",
    type=Parsed("count", _parse_count, ("all",)),
    default="10",
    show_default=True,
    metavar="N",
    help="How many of the last records to show, or all.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print records as JSON, as fusevol writes them."
)
@color_option
@log_options
def tail(
    sources: list[str],
    wanted: Filter,
    count: int | None,
    follow: bool,
    as_json: bool,
    color: str,
) -> None:
    """Show the last records of a log.

    FILE is an access log, or - for standard input; several are read one after another. Filter
    options can be repeated (--op read --op write); a record must match all the different ones. A
    gap, where operations could not be recorded, is always shown.

    \b
    What happens on a mount right now:
      fusevol log tail -f --mount /mnt/data
    What was refused to a container in the last hour:
      fusevol log tail --container 4d5e --result failed --since 1h data.log
    Who removed files from /invoices today:
      fusevol log tail -n all --op unlink --path /invoices --since today data.log
    Everything that ever happened to a name, from rotated logs too:
      zcat data.log.2.gz | fusevol log tail -n all --path a.txt - data.log.1 data.log
    Records as JSON, for jq and similar tools:
      fusevol log tail -n all --json --op write data.log | jq .path
    """
    if follow and len(sources) > 1:
        raise UsageError("--follow: only one log can be followed; give one FILE")
    skipped = Skipped()
    keep = by_id(wanted).compile()
    show = show_json() if as_json else show_text(color)
    out = sys.stdout.buffer
    try:
        if follow:
            for line, record in follow_log(sources[0], count, keep, skipped):
                out.write(show(line, record))
                out.flush()
        else:
            for line, record in _entries(sources, count, keep, skipped):
                out.write(show(line, record))
            out.flush()
    finally:
        report(skipped)


def _entries(sources: list[str], count: int | None, keep: Predicate, skipped: Skipped) -> Entries:
    if count is not None:
        yield from _last(sources, count, keep, skipped)
        return
    for source in sources:
        for _number, line, record in read(source, skipped):
            if keep(record):
                yield line, record


def _last(sources: list[str], count: int, keep: Predicate, skipped: Skipped) -> Entries:
    """Yield the last records of all logs taken together."""
    found: list[tuple[bytes, AccessRecord]] = []
    for source in reversed(sources):
        found = last(source, count - len(found), keep, skipped) + found
    yield from found
