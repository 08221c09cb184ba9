"""`fusevol log report`: what happened to a volume, as one web page."""

import contextlib
import os
import shlex
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Final

import click

from fusevol import __version__
from fusevol.accesslog.filter import Filter
from fusevol.accesslog.lines import STDIN
from fusevol.accesslog.times import Timestamps
from fusevol.cli.log_output import by_id, name_of, rotated_option
from fusevol.cli.log_output import report as report_skipped
from fusevol.cli.options import log_options
from fusevol.errors import FusevolError, NotFoundError, NotPermittedError, UsageError
from fusevol.report.document import About, document
from fusevol.report.page import page
from fusevol.report.reading import read_log

_STDOUT: Final = "-"

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
    help="The page to write, which nobody else may read; - is standard output.",
)
@rotated_option
@log_options
def report(sources: list[str], wanted: Filter, output: str, rotated: bool) -> None:
    """Make a web page of what happened: how much, by whom, what failed, what was slow.

    FILE is an access log, or - for standard input, with what was rotated of it. The page is one
    file that loads nothing and can be sent to others. It counts all records that match; the newest
    of them, and older ones that failed or took long, can be searched in it.

    \b
    The last day of a volume:
      fusevol log report --since 24h --volume data -o report.html
    What one container did:
      fusevol log report --container web -o web.html /var/log/data.log
    What failed this week:
      fusevol log report --result failed --since 7d -o failed.html data.log
    To a browser elsewhere:
      fusevol log report -o - data.log | ssh desk 'cat > report.html'
    """
    _check(output, sources)  # before it takes time
    reading = read_log(sources, by_id(wanted), with_rotated=rotated)
    _check(output, reading.files)
    html = page(document(reading, _about(sources, wanted, rotated)))
    if output == _STDOUT:
        sys.stdout.buffer.write(html)
        sys.stdout.buffer.flush()
    else:
        _write(output, html)
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
    """Return the options that mean this filter, whenever they are given."""
    words = [
        word
        for name, option in _OPTIONS.items()
        for value in getattr(wanted, name)
        for word in (option, str(value))
    ]
    for option, moment in (("--since", wanted.since), ("--until", wanted.until)):
        words += [option, moment] if moment is not None else []
    return words


def _check(output: str, files: Sequence[str]) -> None:
    """Find out whether the page can be where it is wanted.

    Raises:
        UsageError: something is there that must not be replaced, such as one of `files`.
    """
    if output == _STDOUT:
        if sys.stdout.isatty():
            raise UsageError("-o -: standard output is a terminal; give a file, or use a pipe")
        return
    try:
        status = os.stat(output)
    except OSError:
        return
    if stat.S_ISDIR(status.st_mode):
        raise UsageError(f"-o {output}: it is a directory; name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"-o {output}: it is no regular file; use -o - and redirect that")
    for path in files:
        if os.path.exists(path) and os.path.samestat(status, os.stat(path)):
            raise UsageError(f"-o {output}: it is part of the log; name another file")


def _write(path: str, content: bytes) -> None:
    """Put `content` at `path`, all or nothing, readable by nobody else.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: that is not possible there.
    """
    path = os.path.realpath(path)
    what = f"cannot write {path}"
    try:
        fd, temporary = tempfile.mkstemp(prefix=".fusevol-report-", dir=os.path.dirname(path))
        try:
            with open(fd, "wb") as file:
                file.write(content)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except FileNotFoundError:
        raise NotFoundError(f"{what}: its directory does not exist; make it first") from None
    except PermissionError:
        raise NotPermittedError(f"{what}: permission denied; name a place of yours") from None
    except OSError as error:
        raise FusevolError(f"{what}: {error.strerror}; is there room on that disk?") from None
