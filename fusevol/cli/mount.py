"""`fusevol mount`: serve a directory or a file."""

import contextlib
import sys

import click

from fusevol.cli.completion import complete_level, complete_path
from fusevol.cli.option_table import CommandWithOptions, complete_options
from fusevol.mounts import registry
from fusevol.mounts.configure import configure
from fusevol.mounts.visibility import hidden_from_host
from fusevol.options.config import (
    MountConfig,
)
from fusevol.options.mount_words import parse_options
from fusevol.options.table import Place, options_of
from fusevol.processes import starting, staying
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
    serve(configure(source, mountpoint, said, in_background=not foreground), foreground)


def serve(config: MountConfig, foreground: bool) -> None:
    """Make the mount; return when it answers, or in foreground when it ends."""
    if foreground:
        status = staying.stay(config)
        if status:
            sys.exit(status)
        return
    messages = registry.messages_path(config.mountpoint)
    if starting.obtain(config, messages):
        _show(messages)
    if hidden := hidden_from_host(config.mountpoint):
        click.echo(f"fusevol: {printable(hidden)}", err=True)


def _show(messages: str) -> None:
    """Show the messages that were logged while mounting."""
    with contextlib.suppress(FileNotFoundError), open(messages, errors="replace") as file:
        for line in file:
            click.echo(printable(line.rstrip("\n")), err=True)
