"""`fusevol mount`: serve a directory or a file."""

import contextlib
import os
import sys

import click

from fusevol.cli.completion import complete_level, complete_path
from fusevol.cli.option_table import CommandWithOptions, complete_options
from fusevol.errors import UsageError
from fusevol.linux.mountinfo import mount_at
from fusevol.logagent.sinks import parse_all
from fusevol.logagent.sinks.spec import SinkKind
from fusevol.model import OnLogFailure, RecordLevel
from fusevol.mounts import registry
from fusevol.mounts.preflight import check
from fusevol.mounts.visibility import hidden_from_host
from fusevol.options.config import (
    NO_LOG,
    STDOUT_LOG,
    MountConfig,
    log_directory,
)
from fusevol.options.mount_words import Options, parse_options
from fusevol.options.table import Place, options_of
from fusevol.processes import starting
from fusevol.terminal import printable


@click.command(cls=CommandWithOptions, place=Place.MOUNT)
@click.argument("source", shell_complete=complete_path)
@click.argument("mountpoint", shell_complete=complete_path)
@click.option(
    "--log",
    metavar="FILE|-|none",
    help="File for the access records, created with mode 0600 and appended to. - is stdout and "
    "requires -f; none keeps no records.",
    show_default="/var/log/fusevol/NAME.log, without root ~/.local/state/fusevol/NAME.log",
)
@click.option(
    "--record",
    metavar="all|data",
    shell_complete=complete_level,
    help="What to record. all: every operation; nothing is cached. data: opens, closes, changes, "
    "and reads and writes that the page cache does not answer; faster.",
    show_default="all",
)
@click.option("--name", help="The volume's name in the records.", show_default="the mount point")
@click.option(
    "-o",
    "options",
    multiple=True,
    metavar="OPT[,OPT...]",
    shell_complete=complete_options(Place.MOUNT),
    help="Mount options, see below. Can be repeated.",
)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground.")
def mount(
    source: str,
    mountpoint: str,
    log: str | None,
    record: str | None,
    name: str | None,
    options: tuple[str, ...],
    foreground: bool,
) -> None:
    """Serve SOURCE, a directory or a single file, at MOUNTPOINT.

    Returns when the mount answers. End the mount with `fusevol unmount`, umount or fusermount3 -u.
    MOUNTPOINT may be SOURCE itself, which is then served in place.

    \b
    Record everything that happens to a directory:
      fusevol mount /srv/data /mnt/data --log /var/log/data.log
    Watch it happen, until Ctrl-C:
      fusevol mount -f --log - /srv/data /mnt/data | fusevol log tail -f -n all -
    Faster: do not record reads from the page cache; allow no changes:
      fusevol mount --record data -o ro /srv/data /mnt/data
    Refuse operations that cannot be recorded:
      fusevol mount -o on_log_failure=deny /srv/data /mnt/data
    Keep at most 2 GB of log, and send a copy to the journal:
      fusevol mount -o quota=2G,compress=zstd,sinks=journald /srv/data /mnt/data
    """
    said = parse_options(",".join(options))
    if log is not None:
        said.log = log
    if record is not None:
        said.record = options_of(Place.MOUNT)["record"].parse(record)
    if name is not None:
        said.name = name
    config = configure(source, mountpoint, said)
    _check_name(config)
    if config.log == STDOUT_LOG and not foreground:
        raise UsageError("--log - writes to stdout, which requires -f (stay in the foreground)")
    serve(config, foreground)


def _check_name(config: MountConfig) -> None:
    """Refuse a name that another mount has: their records and metrics would be mixed."""
    for other in registry.all_served():
        if other.name == config.name and other.mountpoint != config.mountpoint:
            raise UsageError(
                f"name {config.name} is already used by the mount at {other.mountpoint}; choose "
                f"another with --name"
            )


def configure(source: str, mountpoint: str, options: Options) -> MountConfig:
    """Return the requested mount, its paths absolute and resolved."""
    if "\0" in source + mountpoint:
        raise UsageError("a path cannot contain a NUL byte")
    mountpoint = _resolved(mountpoint)
    log = options.log or default_log(options.name or mountpoint)
    if log not in (STDOUT_LOG, NO_LOG):
        log = os.path.abspath(log)
    return MountConfig(
        source=os.path.realpath(source),
        mountpoint=mountpoint,
        name=options.name or mountpoint,
        log=log,
        level=options.record or RecordLevel.ALL,
        deadline=options.deadline or 0.0,
        on_log_failure=options.on_log_failure or OnLogFailure.CONTINUE,
        flags=options.flags,
        allowed=options.allowed,
        logging=options.logging,
        allow_other=(os.geteuid() == 0 if options.allow_other is None else options.allow_other),
    )


def _resolved(mountpoint: str) -> str:
    """Return the absolute path, and do not ask a mount of ours there: nobody may serve it now."""
    path = registry.resolved(mountpoint)
    mount = mount_at(path)
    if mount is not None and mount.fstype == registry.FSTYPE:
        return path
    return os.path.realpath(mountpoint)


def default_log(name: str) -> str:
    """Return where the records of a volume go by default."""
    return os.path.join(log_directory(), name.strip("/").replace("/", "-") + ".log")


def serve(config: MountConfig, foreground: bool) -> None:
    """Make the mount; return when it answers, or in foreground when it ends."""
    if not foreground and any(
        sink.target is SinkKind.STDOUT for sink in parse_all(config.logging.sinks)
    ):
        raise UsageError("the sink stdout requires -f (stay in the foreground)")

    def prepare() -> None:
        check(config)
        if config.log == default_log(config.name):
            os.makedirs(os.path.dirname(config.log), mode=0o700, exist_ok=True)

    if not foreground:
        if starting.put_back(config) is None:
            prepare()
            messages = registry.messages_path(config.mountpoint)
            starting.start(config, messages)
            _show(messages)
        if hidden := hidden_from_host(config.mountpoint):
            click.echo(f"fusevol: {printable(hidden)}", err=True)
        return
    status = starting.stay(config, prepare)
    if status:
        sys.exit(status)


def _show(messages: str) -> None:
    """Show the messages that were logged while mounting."""
    with contextlib.suppress(FileNotFoundError), open(messages, errors="replace") as file:
        for line in file:
            click.echo(printable(line.rstrip("\n")), err=True)
