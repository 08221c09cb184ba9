"""`fusevol log show`: all records that match, in any of the formats."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Final, NamedTuple

import click

from fusevol.cli.choices import OneOf
from fusevol.cli.log.output import (
    Show,
    by_id,
    missing_in,
    report,
    report_missing,
    rotated_option,
    show_json,
    show_text,
)
from fusevol.cli.options import color_option, log_options
from fusevol.logs.continuity import Continuity
from fusevol.logs.filter import Filter
from fusevol.logs.parallel import in_order, usable_processors
from fusevol.logs.reader import Skipped
from fusevol.logs.sections import Section, Tally, is_stream, opened
from fusevol.record.formats import ecs, juicefs, ocsf
from fusevol.record.record import AccessRecord, MalformedRecordError
from fusevol.terminal import printable_json

_CONVERTERS: Final = {"ecs": ecs, "ocsf": ocsf, "juicefs": juicefs}

_OUTPUT_BYTES: Final = 4 * 1024 * 1024
"""How much a process collects before it hands it over."""


class _End(NamedTuple):
    """What to report about a section at its end."""

    skipped: Skipped
    numbers: Continuity


Work = Callable[[Section], Iterator[bytes | _End]]


@click.command()
@click.option(
    "--format",
    "format_",
    type=OneOf(("text", "json", *_CONVERTERS)),
    default="text",
    show_default=True,
    help="text is for people, json prints records as fusevol writes them, ecs is for Elastic, ocsf "
    "is OCSF's File System Activity, juicefs is the format of JuiceFS's access log.",
)
@click.option("--json", "format_", flag_value="json", help="The same as --format json.")
@rotated_option
@color_option
@log_options
def show(sources: list[str], wanted: Filter, format_: str, rotated: bool, color: str) -> None:
    """Show all matching records of a log, oldest first.

    FILE is an access log, or - for standard input. Its rotated files are read, too, including those
    compressed by gzip, bzip2, xz or zstd, and all records are put in order. Filter options can be
    repeated (--op read --op write); a record must match all the different ones. A gap, where
    operations could not be recorded, is always shown.

    \b
    Everything that ever happened to a file:
      fusevol log show --path /a.txt data.log
    Who removed something from /invoices this week:
      fusevol log show --op unlink --op rmdir --path /invoices --since 7d --volume data
    What a container changed, for Elasticsearch:
      fusevol log show --container 4d5e --op write --format ecs data.log > writes.ndjson
    Where the time went, with JuiceFS's own tool:
      fusevol log show --format juicefs data.log > jfs.log
      juicefs profile --interval 0 jfs.log
    """
    work = _work(by_id(wanted), _shower(format_, color))
    tally = Tally()
    parts: list[Continuity] = []
    sections: list[Section] = []
    out = sys.stdout.buffer
    try:
        with opened(sources, with_rotated=rotated) as sections:
            # Standard input is there for this process only.
            processes = 1 if any(map(is_stream, sections)) else usable_processors()
            with contextlib.closing(in_order(sections, work, processes)) as results:
                for section, result in results:
                    if isinstance(result, _End):
                        tally.add(section, result.skipped)
                        parts.append(result.numbers)
                    else:
                        out.write(result)
                        out.flush()
    finally:
        report(tally.skipped)
        report_missing(missing_in(sections, parts, wanted))


def _work(filter_: Filter, shower: Show) -> Work:
    """Return a function that makes output of a section; its end says what it skipped or missed."""
    keep = filter_.compile()

    def lines(section: Section, skipped: Skipped, numbers: Continuity) -> Iterator[bytes]:
        for batch in section.batches(skipped):
            numbers.add_batch(batch)
            before, block, records, _is_json = batch
            wanted = [
                (index, record)
                for index, record in enumerate(records)
                if record is not None and keep(record)
            ]
            texts = block.split(b"\n") if wanted else []
            for index, record in wanted:
                try:
                    yield shower(texts[index], record)
                except MalformedRecordError as error:
                    skipped.add(section.path, before + index + 1, str(error))

    def work(section: Section) -> Iterator[bytes | _End]:
        end = _End(Skipped(), Continuity(filter_, section.path))
        yield from _chunks(lines(section, *end), 0 if is_stream(section) else _OUTPUT_BYTES)
        yield end

    return work


def _chunks(lines: Iterator[bytes], least_bytes: int) -> Iterator[bytes]:
    chunk = []
    size = 0
    for line in lines:
        chunk.append(line)
        size += len(line)
        if size >= least_bytes:
            yield b"".join(chunk)
            chunk.clear()
            size = 0
    yield b"".join(chunk)


def _shower(format_: str, color: str) -> Show:
    if format_ == "text":
        return show_text(color)
    if format_ == "json":
        return show_json()
    return _converted(_CONVERTERS[format_])


def _converted(converter: ModuleType) -> Show:
    encode: Callable[[AccessRecord], bytes] = converter.encode
    if sys.stdout.isatty():
        return lambda _line, record: printable_json(encode(record)) + b"\n"
    return lambda _line, record: encode(record) + b"\n"
