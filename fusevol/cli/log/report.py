"""`fusevol log report`: what happened to a volume, as one web page."""

import os
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

import click

from fusevol import __version__
from fusevol.cli.log.output import by_id, name_of, rotated_option
from fusevol.cli.log.output import report as report_skipped
from fusevol.cli.options import log_options
from fusevol.cli.output_file import STDOUT, check_output, output_file
from fusevol.errors import UsageError
from fusevol.logs.filter import Filter
from fusevol.logs.lines import STDIN
from fusevol.record.times import Timestamps
from fusevol.report.document import About, document
from fusevol.report.page import page
from fusevol.report.reading import read_log

_OPTIONS: Final = {
    "volumes": "--volume",
    "ops": "--op",
    "paths": "--path",
    "results": "--result",
    "uids": "--uid",
    "pids": "--pid",
    "containers": "--container",
}


@click.command()
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(allow_dash=True),
    metavar="FILE",
    help="File for the page, readable only by you; - is standard output.",
)
@rotated_option
@log_options
def report(sources: list[str], wanted: Filter, output: str, rotated: bool) -> None:
    """Create a web page: activity, failures, slow operations.

    FILE is an access log, or - for standard input; its rotated files are read, too. The page is one
    file that loads nothing and can be sent to others. It counts all records that match. The newest
    of them, and older ones that failed or were slow, can be searched on the page.

    \b
    The last day of a volume:
      fusevol log report --since 24h --volume data -o report.html
    What one container did:
      fusevol log report --container web -o web.html /var/log/data.log
    What failed this week:
      fusevol log report --result failed --since 7d -o failed.html data.log
    To a browser on another host:
      fusevol log report -o - data.log | ssh desk 'cat > report.html'
    """
    if output == STDOUT and sys.stdout.isatty():
        raise UsageError("cannot write the page to a terminal; use -o FILE, or a pipe")
    check_output(output, sources)
    reading = read_log(sources, by_id(wanted), with_rotated=rotated)
    check_output(output, reading.files)
    with output_file(output) as file:
        file.write(page(document(reading, _about(sources, wanted, rotated))))
    report_skipped(reading.skipped)


def _about(sources: Sequence[str], wanted: Filter, rotated: bool) -> About:
    words = list(_words(wanted))
    more = [] if rotated else ["--no-rotated"]
    files = [source if source == STDIN else os.path.abspath(source) for source in sources]
    return About(
        version=__version__,
        host=socket.gethostname(),
        made=Timestamps().of(time.time_ns()),
        choice=shlex.join(words),
        command=shlex.join(["fusevol", "log", "show", *words, *more, *files]),
        name_of=name_of,
    )


def _words(wanted: Filter) -> list[str]:
    """Return the options for this filter, with times that do not depend on the present."""
    words = [
        word
        for name, option in _OPTIONS.items()
        for value in getattr(wanted, name)
        for word in (option, str(value))
    ]
    for option, moment in (("--since", wanted.since), ("--until", wanted.until)):
        words += [option, moment] if moment is not None else []
    return words
