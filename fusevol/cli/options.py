"""Options that commands share: which log to read, and which of its records."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from fusevol.cli.choices import OneOf, SeveralOf, flattened
from fusevol.cli.completion import complete_mountpoint
from fusevol.errors import UsageError
from fusevol.logs.filter import RESULTS, Filter, parse_result, parse_time, path_matcher
from fusevol.names import encode_name
from fusevol.record.record import EVENTS, OPERATIONS

Command = Callable[..., None]


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A value that a function parses from the text; its ValueError says what is wrong with it."""

    def __init__(
        self, name: str, parse: Callable[[str], Any], completions: Sequence[str] = ()
    ) -> None:
        self.name = name
        self._parse = parse
        self._completions = completions

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        try:
            return self._parse(value)
        except ValueError as error:
            option = param.opts[-1] if param else self.name
            raise UsageError(f"{option}: {error}") from None

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(text) for text in self._completions if text.startswith(incomplete)]


def _parse_pattern(text: str) -> str:
    path_matcher(text)
    return text


def _parse_moment(text: str) -> str:
    return parse_time(text, datetime.now().astimezone())


TIME: Final = Parsed("time", _parse_moment, ("today", "yesterday", "10m", "1h", "1d"))
RESULT: Final = Parsed("result", parse_result, RESULTS)
PATTERN: Final = Parsed("pattern", _parse_pattern)

FILTER_OPTIONS: Final = {
    "ops": click.option(
        "--op", "ops", multiple=True, type=SeveralOf((*OPERATIONS, *EVENTS)), callback=flattened,
        metavar="OP[,OP...]", help="Only these operations, such as write,unlink.",
    ),
    "paths": click.option(
        "--path", "paths", multiple=True, type=PATTERN, metavar="PATTERN",
        help="Only these paths inside the volume, written as in .gitignore: /etc is /etc and "
        "everything below it, *.db is a name in any directory; * does not match /, ** does.",
    ),
    "results": click.option(
        "--result", "results", multiple=True, type=RESULT, metavar="RESULT",
        help="Only this result: ok, failed, or an error such as EACCES.",
    ),
    "uids": click.option(
        "--uid", "uids", multiple=True, type=click.IntRange(min=0), metavar="UID",
        help="Only operations of this user.",
    ),
    "pids": click.option(
        "--pid", "pids", multiple=True, type=click.IntRange(min=0), metavar="PID",
        help="Only operations of this process.",
    ),
    "containers": click.option(
        "--container", "containers", multiple=True, metavar="ID",
        help="Only operations of this container: its name, or the first digits of its id; - is "
        "the host, ? stands for containers that could not be looked up.",
    ),
    "since": click.option(
        "--since", type=TIME, metavar="TIME",
        help="Only records from this time on: 2026-11-23T10:00 (local time; with Z, UTC), 10:00, "
        "yesterday, or 15m for 15 minutes ago (s, m, h, d, w).",
    ),
    "until": click.option(
        "--until", type=TIME, metavar="TIME", help="Only records before this time."
    ),
}  # fmt: skip

SOURCE_OPTIONS: Final = {
    "files": click.argument(
        "files", nargs=-1, type=click.Path(readable=False, allow_dash=True), metavar="[FILE]..."
    ),
    "volume": click.option(
        "--volume", metavar="NAME",
        help="Read the log of this volume; together with FILE, only its records in FILE.",
    ),
    "mount": click.option(
        "--mount", metavar="MOUNTPOINT", shell_complete=complete_mountpoint,
        help="Read the log of the mount at this mount point.",
    ),
}  # fmt: skip

color_option = click.option(
    "--color",
    type=OneOf(("auto", "always", "never")),
    default="auto",
    show_default=True,
    help="Color the text; auto colors it on a terminal unless NO_COLOR is set.",
)


def wants_color(choice: str) -> bool:
    """Return whether to color standard output, given the value of `color_option`."""
    if choice == "auto":
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return choice == "always"


def log_options(command: Command) -> Command:
    """Add the logs to read and the records to show, as `sources: list[str]` and `wanted: Filter`.

    Raises:
        UsageError: when called with no log, or with too many ways to find one.
        NotFoundError: when called with a volume or a mount that does not exist.
    """

    @functools.wraps(command)
    def with_sources_and_filter(**values: Any) -> None:
        chosen = {name: values.pop(name) for name in FILTER_OPTIONS}
        files, volume, mount = (values.pop(name) for name in SOURCE_OPTIONS)
        command(
            sources=sources_of(files, volume, mount),
            wanted=Filter(volumes=volumes_of(volume), **chosen),
            **values,
        )

    decorated: Command = with_sources_and_filter
    for option in reversed((*SOURCE_OPTIONS.values(), *FILTER_OPTIONS.values())):
        decorated = option(decorated)
    return decorated


def source_options(command: Command) -> Command:
    """Add the logs to read, as `sources: list[str]`, and the `volume: str` that they are of.

    The volume is as it stands in records, empty if none was named.

    Raises:
        UsageError: when called with no log, or with too many ways to find one.
        NotFoundError: when called with a volume or a mount that does not exist.
    """

    @functools.wraps(command)
    def with_sources(**values: Any) -> None:
        files, volume, mount = (values.pop(name) for name in SOURCE_OPTIONS)
        names = volumes_of(volume)
        command(
            sources=sources_of(files, volume, mount), volume=names[0] if names else "", **values
        )

    decorated: Command = with_sources
    for option in reversed(SOURCE_OPTIONS.values()):
        decorated = option(decorated)
    return decorated


def volumes_of(name: str | None) -> tuple[str, ...]:
    """Return the name of a volume, if there is one, as it stands in records."""
    return (encode_name(os.fsencode(name)),) if name else ()


def sources_of(files: Sequence[str], volume: str | None, mount: str | None) -> list[str]:
    """Return the paths of the logs that these options select.

    Raises:
        UsageError: they select no log, or too many.
        NotFoundError: the volume or the mount does not exist.
    """
    if mount and (files or volume):
        raise UsageError("--mount already selects a log; leave out FILE and --volume")
    if files:
        return list(files)
    if not (volume or mount):
        raise UsageError("no log to read; give FILE, --volume NAME or --mount MOUNTPOINT")
    # Loaded here, as logs can be read where nothing is served.
    from fusevol.server.log_places import find_log

    return [find_log(mountpoint=mount, volume=volume)]
