"""`fusevol volume`: the volumes of `fusevol serve`."""

import os
import sys

import click

from fusevol.cli.choices import Group
from fusevol.cli.completion import complete_level, complete_path
from fusevol.cli.option_table import CommandWithOptions, complete_options
from fusevol.errors import UsageError
from fusevol.mounts.encoding import encode
from fusevol.options.table import Place
from fusevol.options.volume_words import find
from fusevol.server.control import Client, VolumeState
from fusevol.terminal import printable


@click.group(cls=Group)
def volume() -> None:
    """Create, list, change and remove named volumes."""


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_source = click.option(
    "--source",
    shell_complete=complete_path,
    metavar="PATH",
    help="Directory or file to serve.",
)
_record = click.option(
    "--record", metavar="all|data", shell_complete=complete_level, help="What to record."
)
_options = click.option(
    "-o",
    "--opt",
    "words",
    multiple=True,
    metavar="NAME=VALUE",
    shell_complete=complete_options(Place.VOLUME),
    help="Options of the volume, see below. Can be repeated.",
)


@volume.command(cls=CommandWithOptions, place=Place.VOLUME)
@click.argument("name", default="")
@_source
@_record
@click.option("--read-only", is_flag=True, help="Refuse changes.")
@_options
def create(
    name: str, source: str | None, record: str | None, read_only: bool, words: tuple[str, ...]
) -> None:
    """Create a volume named NAME and print its name.

    Without --source, fusevol stores the data under /var/lib/fusevol/volumes and DELETES it when the
    volume is removed. Without NAME, the volume is anonymous: it is removed when the last container
    that uses it exits.

    \b
    For a directory of the host, read-only:
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
    """Show everything that is known about volumes."""
    with Client() as daemon:
        volumes = [daemon.inspect(name) for name in names]
    if as_json:
        sys.stdout.buffer.write(encode(volumes) + b"\n")
        return
    for one in volumes:
        _show(one)


@volume.command(cls=CommandWithOptions, place=Place.VOLUME, shows_changes=True)
@click.argument("name")
@_source
@_record
@click.option("--read-only/--read-write", default=None, help="Refuse or allow changes.")
@_options
def update(
    name: str,
    source: str | None,
    record: str | None,
    read_only: bool | None,
    words: tuple[str, ...],
) -> None:
    """Change options of a volume.

    A change that takes effect immediately does so even while the volume is in use: another worker
    takes over. Other changes take effect when the volume is mounted next: immediately if it is not
    in use, otherwise after its last user has exited.
    """
    options = _said(words, source, record)
    if read_only is not None:
        options["ro"] = str(read_only).lower()
    if not options:
        raise UsageError("nothing to change; give an option, such as --record data")
    with Client() as daemon:
        state = daemon.update(name, options)
    later = {word for word, value in options.items() if not find(word).changes_at_once(value)}
    if later and (state.references or state.state == "serving"):
        click.echo(
            f"{name} is in use: the new {', '.join(sorted(later))} takes effect when the volume is "
            f"mounted next",
            err=True,
        )


@volume.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def rm(names: tuple[str, ...]) -> None:
    """Remove volumes that are not in use.

    DELETES the data of volumes that were created without a source. A source directory of the host
    and the access logs stay.
    """
    with Client() as daemon:
        for name in names:
            daemon.remove(name)
            click.echo(name)


@volume.command()
@click.argument("name")
@click.option("--holder", default="", metavar="ID", help="Drop only the references of this holder.")
@click.option("--force", is_flag=True, help="Drop them; without --force, they are only listed.")
def release(name: str, holder: str, force: bool) -> None:
    """Drop stale references to a volume.

    A reference is stale if its holder is gone and did not return it. Programs that use the volume
    keep working, but without references it can be removed, or stopped when idle.
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
        if not equals and find(key).can_be_bare:
            value = "true"
        elif not equals:
            raise UsageError(f"invalid -o {word}: expected NAME=VALUE, such as ro=true")
        if key in options:
            raise UsageError(f"-o {key} is given twice")
        options[key] = value
    for key, said in (("source", source and os.path.abspath(source)), ("record", record)):
        if said is None:
            continue
        if key in options:
            raise UsageError(f"--{key} and -o {key}= set the same option; use one of them")
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
        "strict": "true" if one.strict else "",
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
