"""`fusevol volume`: the volumes of `fusevol serve`."""

import os
import sys
from typing import Final

import click

from fusevol.cli.completion import complete_level, complete_path
from fusevol.errors import UsageError
from fusevol.mounts.encoding import encode
from fusevol.options import log as log_options
from fusevol.server.control import Client, VolumeState
from fusevol.terminal import printable


@click.group()
def volume() -> None:
    """Make, list, change and remove the volumes of `fusevol serve`."""


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_source = click.option(
    "--source",
    shell_complete=complete_path,
    metavar="PATH",
    help="Directory or file to serve.",
)
_record = click.option(
    "--record", metavar="all|data", shell_complete=complete_level, help="How much is recorded."
)
_options = click.option(
    "-o",
    "--opt",
    "words",
    multiple=True,
    metavar="NAME=VALUE",
    help="source=PATH, subpath=DIR, record=all|data, ro=true|false, log=FILE|none, "
    "on_log_failure=continue|deny, deadline=SECONDS, suid=, dev=, noexec=, exec=true|false, and "
    "for its log format=, sinks=, include=, exclude=, success=, failure=, coalesce=, chain=, "
    "rotate_size=, rotate_age=, compress=, keep_files=, keep_age=, quota=, space_warn=, "
    "space_act=. Can be "
    "repeated.",
)


_AT_ONCE: Final = ("deadline", "on_log_failure", *log_options.KNOWN)
"""Options that a volume in use follows."""


@volume.command()
@click.argument("name", default="")
@_source
@_record
@click.option("--read-only", is_flag=True, help="Refuse changes.")
@_options
def create(
    name: str, source: str | None, record: str | None, read_only: bool, words: tuple[str, ...]
) -> None:
    """Make a volume called NAME and print its name.

    Without --source its data are kept below /var/lib/fusevol/volumes and go with it. Without NAME
    it is anonymous, and goes with the last container that uses it.

    \b
    Over a directory of the host, for reading only:
      fusevol volume create data --source /srv/data --read-only
    Then:
      docker run -v data:/data --volume-driver fusevol ...
      fusevol run -v data:/data --image oci:DIR:TAG
    """
    options = _said(words, source, record)
    if read_only:
        options["ro"] = "true"
    with Client() as daemon:
        click.echo(daemon.create(name, options).name)


@volume.command()
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print names only.")
def ls(as_json: bool, quiet: bool) -> None:
    """List the volumes."""
    with Client() as daemon:
        volumes = daemon.list()
    if as_json:
        sys.stdout.buffer.write(encode(volumes) + b"\n")
    elif quiet:
        for one in volumes:
            click.echo(one.name)
    else:
        click.echo(f"{'NAME':<24} {'STATE':<8} {'USED':>4}  {'RECORD':<6} SOURCE")
        for one in volumes:
            used = sum(one.references.values())
            source = printable(os.path.join(one.source, one.subpath) if one.subpath else one.source)
            click.echo(f"{one.name:<24} {one.state:<8} {used:>4}  {one.record:<6} {source}")


@volume.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@json_option
def inspect(names: tuple[str, ...], as_json: bool) -> None:
    """Show all that is known about volumes."""
    with Client() as daemon:
        volumes = [daemon.inspect(name) for name in names]
    if as_json:
        sys.stdout.buffer.write(encode(volumes) + b"\n")
        return
    for one in volumes:
        _show(one)


@volume.command()
@click.argument("name")
@_source
@_record
@click.option("--read-only/--read-write", default=None, help="Refuse changes, or not.")
@_options
def update(
    name: str,
    source: str | None,
    record: str | None,
    read_only: bool | None,
    words: tuple[str, ...],
) -> None:
    """Change options of a volume.

    deadline, on_log_failure, a change to record level data and all that is about the log but its
    name take effect at once, also while the volume is used: another worker takes over. The others
    take effect when the volume is served the next time: at once if nobody uses it, else when all
    that use it have ended.
    """
    options = _said(words, source, record)
    if read_only is not None:
        options["ro"] = str(read_only).lower()
    if not options:
        raise UsageError("nothing to change; give an option, such as --record data")
    with Client() as daemon:
        state = daemon.update(name, options)
    later = {key for key in options if key not in _AT_ONCE} - {"record"}
    if options.get("record") == "all":
        later.add("record")
    if later and (state.references or state.state == "serving"):
        click.echo(
            f"{name} is in use: {', '.join(sorted(later))} takes effect when it is served anew",
            err=True,
        )


@volume.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def rm(names: tuple[str, ...]) -> None:
    """Remove volumes that nobody uses.

    The data go with volumes that have no source of their own; access logs stay.
    """
    with Client() as daemon:
        for name in names:
            daemon.remove(name)
            click.echo(name)


@volume.command()
@click.argument("name")
@click.option("--holder", default="", metavar="ID", help="Only what this one holds.")
@click.option("--force", is_flag=True, help="Do it; without, only show who would lose it.")
def release(name: str, holder: str, force: bool) -> None:
    """Take back references to a volume whose holders are gone without a word.

    What is in use goes on working; but the volume can then be removed, or be stopped when idle.
    """
    with Client() as daemon:
        held = daemon.inspect(name).references
        for one, count in sorted(held.items()):
            if holder in ("", one):
                click.echo(f"{printable(one)} {count}")
        if force:
            daemon.unmount(name, holder, all=True)


def _said(words: tuple[str, ...], source: str | None, record: str | None) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"-o {word}: use NAME=VALUE, such as ro=true")
        if key in options:
            raise UsageError(f"-o {key} is given twice")
        options[key] = value
    for key, said in (("source", source and os.path.abspath(source)), ("record", record)):
        if said is None:
            continue
        if key in options:
            raise UsageError(f"--{key} and -o {key}= say the same; give one of them")
        options[key] = said
    return options


def _show(one: VolumeState) -> None:
    click.echo(one.name)
    rows = {
        "source": one.source,
        "subpath": one.subpath,
        "record": one.record,
        "access": "read-only" if one.read_only else "read-write",
        "log": one.log,
        "on_log_failure": one.on_log_failure,
        "deadline": f"{one.deadline:g} s" if one.deadline else "",
        "created": one.created,
        "state": one.state,
        "message": one.message,
        "mountpoint": one.mountpoint,
        "keeper": str(one.keeper or ""),
        "worker": str(one.worker or ""),
        "restarts": str(one.restarts or ""),
    }
    for key, value in (rows | one.logging).items():
        if value:
            click.echo(f"  {key:<14} {printable(value)}")
    for holder, count in sorted(one.references.items()):
        click.echo(f"  {'used by':<14} {printable(holder)} {count}")
