"""What commands that read logs print: records as lines, names of containers, what was skipped."""

import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from fusevol.cli.options import wants_color
from fusevol.logs.continuity import Continuity, joined
from fusevol.logs.filter import Filter
from fusevol.logs.lines import STDIN
from fusevol.logs.reader import Skipped
from fusevol.logs.sections import Section, is_stream
from fusevol.options.log import LogFormat
from fusevol.record.container_ids import HOST
from fusevol.record.formats import format_of
from fusevol.record.record import AccessRecord, encode
from fusevol.record.text import format_record
from fusevol.terminal import printable, printable_json

if TYPE_CHECKING:
    from fusevol.containers.names import ContainerNames

Show = Callable[[bytes, AccessRecord], bytes]
"""Makes a line of output of a line of the log and its record."""

rotated_option = click.option(
    "--rotated/--no-rotated",
    default=True,
    show_default=True,
    help="Also read the rotated files of FILE, such as FILE.1 and FILE.2.gz.",
)


@functools.cache
def container_names() -> "ContainerNames":
    """Return the lookup for names of containers; one for the process."""
    # Loaded when the first container turns up: most logs have none, and it takes its time.
    from fusevol.containers.names import ContainerNames

    return ContainerNames()


# The threads that ask engines are not there in a fork: it has to ask by itself.
os.register_at_fork(after_in_child=container_names.cache_clear)


def by_id(wanted: Filter) -> Filter:
    """Return the filter with ids in place of names that engines have given to containers."""
    found = [
        one
        for word in wanted.containers
        for one in (word != HOST and container_names().ids(word)) or [word]
    ]
    return replace(wanted, containers=tuple(found))


def name_of(container: str) -> str | None:
    """Return what engines call a container, if one of them knows it."""
    return container_names().name(container)


def show_json() -> Show:
    """Show records as they are in the log, or, if it is in another format, as they would be."""
    if sys.stdout.isatty():
        return lambda line, record: printable_json(_as_json(line, record)) + b"\n"
    return lambda line, record: _as_json(line, record) + b"\n"


def _as_json(line: bytes, record: AccessRecord) -> bytes:
    return line if format_of(line) == LogFormat.JSON else encode(record)


def show_text(color: str) -> Show:
    """Show records to people, given the value of `color_option`."""
    in_color = wants_color(color)
    encoding = sys.stdout.encoding
    return lambda _line, record: (
        f"{format_record(record, color=in_color, name_of=name_of)}\n".encode(
            encoding, "backslashreplace"
        )
    )


def missing_in(
    sections: Sequence[Section], parts: Iterable[Continuity], wanted: Filter
) -> Continuity:
    """Return which numbers are missing in the parts of a log, which are in their order.

    From a pipe nothing counts as missing: it may have been filtered on purpose.
    """
    return joined([] if any(map(is_stream, sections)) else parts, wanted)


def report_missing(numbers: Continuity) -> None:
    """Report on stderr which numbers are missing, if any are."""
    if not numbers.holes:
        return
    first, last, before, after = numbers.holes[0][1:3] + numbers.holes[0][4:]
    which = f"number {first}" if first == last else f"numbers {first}-{last}"
    count = "1 record" if first == last else f"{last - first + 1} records"
    where = f"in {printable(after)}"
    if before != after:
        where = f"between {printable(before)} and {printable(after)}"
    more = ""
    if numbers.places > 1:
        more = f"; in all {numbers.missing} records at {numbers.places} places"
    click.echo(f"fusevol: {which} missing ({count}) {where}{more}", err=True)


def report(skipped: Skipped) -> None:
    """Report on stderr what was skipped, if anything was."""
    if not skipped.count:
        return
    path, number, reason = skipped.first[0]
    lines = "1 line" if skipped.count == 1 else f"{skipped.count} lines"
    name = "standard input" if path == STDIN else printable(path)
    message = f"{lines} skipped, first at line {number} of {name}: {printable(reason)}"
    click.echo(f"fusevol: {message}", err=True)
