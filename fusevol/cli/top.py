"""`fusevol top`: what happens on all volumes right now."""

import itertools
import os
import sys
import time
from collections.abc import Callable
from typing import Final

import click
import msgspec

from fusevol.cli.choices import OneOf
from fusevol.cli.log.output import name_of
from fusevol.errors import FusevolError, NotFoundError, UnsupportedError, UsageError
from fusevol.mounts import registry
from fusevol.record.record import one_line
from fusevol.spelling import did_you_mean
from fusevol.terminal import printable_json
from fusevol.top.collector import Frame, FrameCollector, Wanted
from fusevol.top.plain import as_document, as_text
from fusevol.top.views import COLUMNS

Show = Callable[[Frame], None]

_ROWS: Final = 10


@click.command()
@click.option("--volume", "names", multiple=True, metavar="NAME", help="Only this volume.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.1, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Length of a frame.",
)
@click.option("--batch", is_flag=True, help="Print frames as text, for scripts.")
@click.option("--once", is_flag=True, help="Print one frame.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each frame.")
@click.option(
    "-n", "count", type=click.IntRange(min=1), metavar="N", help="Print N frames, then exit."
)
@click.option(
    "--sort",
    "by",
    type=OneOf([column.name for column in COLUMNS]),
    default=COLUMNS[0].name,
    show_default=True,
    metavar="COLUMN",
    help="Sort by this column, the highest first: "
    + ", ".join(column.name for column in COLUMNS)
    + ".",
)
@click.option("--filter", "text", default="", metavar="TEXT", help="Only names that contain TEXT.")
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Rows of each printed table.  [default: {_ROWS}; all with --json]",
)
def top(
    names: tuple[str, ...],
    interval_s: float,
    batch: bool,
    once: bool,
    as_json: bool,
    count: int | None,
    by: str,
    text: str,
    rows: int | None,
) -> None:
    """Show live activity: operations, latency, paths, processes.

    On a terminal, keys change the view; ? lists them. The numbers of volumes and operations are
    exact. Those of paths, processes and containers come from the logs; if a log grows too fast,
    they are estimated from a sample. You see only your own mounts; root sees those of root.

    \b
    Watch all volumes:
      fusevol top
    Ten seconds of numbers for a script:
      fusevol top --once --interval 10 --json | jq '.volumes[] | {volume, ops_per_s, p99_us}'
    Who writes most, every five seconds:
      fusevol top --batch --interval 5 --sort written_bytes_per_s --rows 3
    """
    wanted = _wanted(names)
    if not (batch or once or as_json or count):
        _live(wanted, interval_s, by, text)
        return
    show = _json_printer(by, text, rows) if as_json else _text_printer(by, text, rows or _ROWS)
    with FrameCollector(wanted, name_of) as collector:
        for number in itertools.count(1):
            time.sleep(interval_s)
            show(collector.frame())
            if number == (1 if once else count):
                return


def _wanted(names: tuple[str, ...]) -> Wanted:
    if not names:
        return lambda _served: True
    served = {one.name for one in registry.all_served()}
    for name in names:
        if name not in served:
            meant = did_you_mean(name, served) or "; `fusevol status` lists the mounts"
            raise NotFoundError(f"no volume named {name} is mounted{meant}")
    return lambda one: one.name in names


def _live(wanted: Wanted, interval_s: float, by: str, text: str) -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") == "dumb":
        raise UsageError("the live view requires a terminal; use --batch, --once or --json")
    try:
        from fusevol.top.app import Top
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("rich", "textual"):
            raise
        raise UnsupportedError(
            "the live view requires Textual: pip install 'fusevol[top]'; or use --batch"
        ) from None
    app = Top(wanted, name_of, interval_s, by, text, in_color=not os.environ.get("NO_COLOR"))
    app.run()
    if app.error is not None:
        raise app.error
    if app.return_code:
        raise FusevolError("the live view failed; see above")


def _text_printer(by: str, text: str, rows: int) -> Show:
    encoding = sys.stdout.encoding
    separator = itertools.chain(("",), itertools.repeat("\n"))

    def show(frame: Frame) -> None:
        _write(
            (next(separator) + as_text(frame, by, text, rows)).encode(encoding, "backslashreplace")
        )

    return show


def _json_printer(by: str, text: str, rows: int | None) -> Show:
    is_terminal = sys.stdout.isatty()

    def show(frame: Frame) -> None:
        line = one_line(msgspec.json.encode(as_document(frame, by, text, rows)))
        _write((printable_json(line) if is_terminal else line) + b"\n")

    return show


def _write(output: bytes) -> None:
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
