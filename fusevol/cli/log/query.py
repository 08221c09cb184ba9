"""`fusevol log query`: questions in SQL."""

import contextlib
import csv
import io
import itertools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from fusevol.cli.choices import OneOf
from fusevol.cli.log.output import (
    container_names,
    missing_in,
    report,
    report_missing,
    rotated_option,
)
from fusevol.cli.options import FILTER_OPTIONS, SOURCE_OPTIONS, sources_of, volumes_of
from fusevol.cli.output_file import STDOUT, check_output, output_file
from fusevol.errors import UsageError
from fusevol.linux.landlock import forbid_writing
from fusevol.logs.filter import Filter
from fusevol.logs.parallel import in_child
from fusevol.logs.plain_files import plain_files
from fusevol.logs.query import QueryResult, ResultColumn, answered, imported
from fusevol.logs.sections import Section, Tally, opened
from fusevol.record.record import one_line
from fusevol.terminal import printable, printable_json

if TYPE_CHECKING:
    from fusevol.logs.continuity import Continuity

_WIDTH_ROWS: Final = 1000
"""How many rows decide how wide columns are."""
_CHUNK_ROWS: Final = 1000

_NUMBER: Final = re.compile(r"[A-Z]*INT|DOUBLE|FLOAT|DECIMAL.*")
_NO_VALUE: Final = "-"

Rows = Iterator[tuple[str | None, ...]]


@click.command()
@click.argument("words", nargs=-1, metavar="[SQL] [FILE]...")
@click.option(
    "-f",
    "--file",
    "script",
    type=click.File(encoding="utf-8"),
    metavar="SCRIPT",
    help="Read the SQL from this file; - is standard input.",
)
@click.option(
    "--format",
    "format_",
    type=OneOf(("table", "json", "csv", "parquet")),
    default="table",
    show_default=True,
    help="table is for people; the others are for programs and have times in UTC.",
)
@click.option("--json", "format_", flag_value="json", help="The same as --format json.")
@click.option(
    "-o",
    "--output",
    default=STDOUT,
    type=click.Path(allow_dash=True),
    metavar="RESULT",
    help="Write to this file, readable only by you.",
)
@rotated_option
@SOURCE_OPTIONS["volume"]
@SOURCE_OPTIONS["mount"]
@FILTER_OPTIONS["since"]
@FILTER_OPTIONS["until"]
def query(
    words: tuple[str, ...],
    script: io.TextIOBase | None,
    format_: str,
    output: str,
    rotated: bool,
    volume: str | None,
    mount: str | None,
    since: str | None,
    until: str | None,
) -> None:
    """Query a log with SQL.

    SQL is one SELECT in the dialect of DuckDB. The view log has a row for each record and a column
    for each of its keys; the view ops is log without fusevol's own events. Without SQL, it is read
    from standard input. FILE is an access log, or - for standard input; its rotated files are read,
    too. Quote columns that are keywords of SQL: "to", "group", "offset".

    In addition to DuckDB's functions there are under(path, '/etc'), folder(path), and
    container_name(container).

    \b
    Which container wrote the most:
      fusevol log query "SELECT container_name(container) AS who,
        sum(bytes_written) AS bytes FROM ops WHERE op = 'write' GROUP BY 1
        ORDER BY 2 DESC" --volume data
    What one process touched last night:
      fusevol log query "SELECT DISTINCT path FROM ops WHERE pid = 4711" \\
        --since yesterday --until today data.log
    Operations per minute, for a spreadsheet:
      fusevol log query "SELECT date_trunc('minute', time) AS minute, count(*)
        FROM ops GROUP BY 1 ORDER BY 1" --format csv -o minutes.csv data.log
    A longer question, kept in a file:
      fusevol log query -f question.sql --volume data
    """
    imported()
    sql, files = _asked(words, script)
    sources = sources_of(files, volume, mount)
    check_output(output, sources)
    wanted = Filter(volumes=volumes_of(volume), since=since, until=until)
    tally = Tally()
    numbers: list[Continuity] = []
    sections: list[Section] = []
    try:
        with (
            tempfile.TemporaryDirectory(prefix="fusevol-query-") as directory,
            opened(sources, with_rotated=rotated) as sections,
        ):
            paths = plain_files(sections, wanted, directory, tally, numbers)
            paths = paths or [_empty_file(directory)]
            names = container_names().all() if "container" in sql.lower() else {}

            def work() -> Iterator[bytes]:
                forbid_writing(except_below=directory)
                with answered(sql, paths, wanted, names, directory) as answer:
                    yield from _FORMATS[format_](answer, directory)

            with contextlib.closing(in_child(work)) as chunks:
                _write(chunks, output, directory)
    finally:
        report(tally.skipped)
        report_missing(missing_in(sections, numbers, wanted))


def _asked(words: tuple[str, ...], script: io.TextIOBase | None) -> tuple[str, tuple[str, ...]]:
    """Return the SQL and the names of files.

    Raises:
        UsageError: it is not text.
    """
    if script is None and words:
        return words[0], words[1:]
    if script is None and sys.stdin.isatty():
        click.echo("SQL, ended by Ctrl-D:", err=True)
    try:
        return (script or sys.stdin).read(), words
    except UnicodeDecodeError:
        raise UsageError("invalid SQL: not UTF-8") from None


def _empty_file(directory: str) -> str:
    path = os.path.join(directory, "empty.json")
    with open(path, "xb"):
        return path


def _write(chunks: Iterator[bytes], output: str, directory: str) -> None:
    # Nothing is written before the first result: by then a wrong query has failed.
    first = next(chunks, b"")
    with output_file(output) as file:
        for chunk in itertools.chain((first,), chunks):
            file.write(chunk)
        parquet = _parquet_path(directory)
        if os.path.exists(parquet):
            with open(parquet, "rb") as source:
                shutil.copyfileobj(source, file)


def _table(answer: QueryResult, _directory: str) -> Iterator[bytes]:
    rows = answer.texts()
    head = [tuple(map(_cell, row)) for row in itertools.islice(rows, _WIDTH_ROWS)]
    names = [printable(column.name) for column in answer.columns]
    widths = [max(map(len, cells)) for cells in zip(names, *head, strict=True)]
    pads = [_pad(column, width) for column, width in zip(answer.columns, widths, strict=True)]

    def line(cells: Iterable[str]) -> bytes:
        padded = (pad(cell) for pad, cell in zip(pads, cells, strict=True))
        return "  ".join(padded).rstrip().encode() + b"\n"

    yield line(names) + line("-" * width for width in widths)
    yield from _chunks(map(line, head))
    yield from _chunks(line(map(_cell, row)) for row in rows)


def _cell(value: str | None) -> str:
    return _NO_VALUE if value is None else printable(value)


def _pad(column: ResultColumn, width: int) -> Callable[[str], str]:
    if _NUMBER.fullmatch(column.type):
        return lambda cell: cell.rjust(width)
    return lambda cell: cell.ljust(width)


def _json(answer: QueryResult, _directory: str) -> Iterator[bytes]:
    show: Callable[[bytes], bytes] = printable_json if sys.stdout.isatty() else one_line
    return _chunks(show(line) + b"\n" for line in answer.json())


def _csv(answer: QueryResult, _directory: str) -> Iterator[bytes]:
    show: Callable[[str], str] = printable if sys.stdout.isatty() else lambda cell: cell
    yield _csv_lines([[show(column.name) for column in answer.columns]])
    rows = answer.texts(in_utc=True)
    while some := list(itertools.islice(rows, _CHUNK_ROWS)):
        yield _csv_lines([None if cell is None else show(cell) for cell in row] for row in some)


def _csv_lines(rows: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _parquet(answer: QueryResult, directory: str) -> Iterator[bytes]:
    if sys.stdout.isatty():
        raise UsageError("cannot write parquet to a terminal; use -o FILE")
    answer.write_parquet(_parquet_path(directory))
    return iter(())


def _parquet_path(directory: str) -> str:
    return os.path.join(directory, "answer.parquet")


_FORMATS: Final = {"table": _table, "json": _json, "csv": _csv, "parquet": _parquet}


def _chunks(lines: Iterator[bytes]) -> Iterator[bytes]:
    while chunk := b"".join(itertools.islice(lines, _CHUNK_ROWS)):
        yield chunk
