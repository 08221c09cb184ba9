"""`fusevol log`: look into access logs."""

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from fusevol.accesslog.filter import HOST, Filter
from fusevol.accesslog.follow import follow as follow_log
from fusevol.accesslog.lines import STDIN
from fusevol.accesslog.reader import Predicate, Skipped, last, read
from fusevol.accesslog.record import AccessRecord
from fusevol.accesslog.text import format_record, printable, printable_json
from fusevol.cli.options import Parsed, color_option, log_options, wants_color
from fusevol.errors import UsageError

if TYPE_CHECKING:
    from fusevol.container.names import ContainerNames

Entries = Iterator[tuple[bytes, AccessRecord]]


def _parse_count(text: str) -> int | None:
    if text == "all":
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is no number of records; give one like 10, or all")
    return min(int(text), sys.maxsize)


@click.group()
def log() -> None:
    """Look into access logs: what was done to a volume, by whom, with what result."""


@log.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with records as they are written.")
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
@click.option("--json", "as_json", is_flag=True, help="Show the records as they are in the log.")
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

    FILE is an access log, or - for standard input; several are read one after another. Options
    that choose records can be repeated (--op read --op write); different ones must all hold. A gap,
    where operations could not be recorded, is shown whatever they say.

    \b
    What happens on a mount right now:
      fusevol log tail -f --mount /mnt/data
    What was refused to a container in the last hour:
      fusevol log tail --container 4d5e --result failed --since 1h data.log
    Who removed something from /invoices today:
      fusevol log tail -n all --op unlink --path /invoices --since today data.log
    All that ever happened to a name, from rotated logs too:
      zcat data.log.2.gz | fusevol log tail -n all --path a.txt - data.log.1 data.log
    The records as they are, for jq and its like:
      fusevol log tail -n all --json --op write data.log | jq .path
    """
    if follow and len(sources) > 1:
        raise UsageError("--follow: only one log can be followed; give one FILE")
    skipped = Skipped()
    keep = _by_id(wanted).compile()
    show = _shower(as_json, color)
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
        _report(skipped)


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


@functools.cache
def _container_names() -> "ContainerNames":
    # Loaded when the first container turns up: most logs have none, and it takes its time.
    from fusevol.container.names import ContainerNames

    return ContainerNames()


def _by_id(wanted: Filter) -> Filter:
    """Return the filter with ids in place of names that engines have given to containers."""
    found = [
        one
        for word in wanted.containers
        for one in (word != HOST and _container_names().ids(word)) or [word]
    ]
    return replace(wanted, containers=tuple(found))


def _name_of(container: str) -> str | None:
    return _container_names().name(container)


def _shower(as_json: bool, color: str) -> Callable[[bytes, AccessRecord], bytes]:
    """Return what makes a line of output of a record."""
    if as_json and sys.stdout.isatty():
        return lambda line, _record: printable_json(line) + b"\n"
    if as_json:
        return lambda line, _record: line + b"\n"
    in_color = wants_color(color)
    encoding = sys.stdout.encoding
    return lambda _line, record: (
        f"{format_record(record, color=in_color, name_of=_name_of)}\n".encode(
            encoding, "backslashreplace"
        )
    )


def _report(skipped: Skipped) -> None:
    if not skipped.count:
        return
    path, number, reason = skipped.first[0]
    lines = "1 line" if skipped.count == 1 else f"{skipped.count} lines"
    name = "standard input" if path == STDIN else printable(path)
    message = f"{lines} skipped, first at line {number} of {name}: {printable(reason)}"
    click.echo(f"fusevol: {message}", err=True)
