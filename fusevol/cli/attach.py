"""`fusevol attach` and `fusevol detach`: volumes of running containers."""

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from fusevol.errors import FusevolError, NotFoundError, NotPermittedError, UsageError
from fusevol.terminal import printable

if TYPE_CHECKING:
    from fusevol.binding.attachments import Attachment


@click.command()
@click.argument("target", default="")
@click.argument("volume", default="", metavar="NAME|PATH:/DST[:ro]")
@click.option("--list", "listing", is_flag=True, help="List the attached volumes.")
@click.option("--json", "as_json", is_flag=True, help="With --list: print a JSON array.")
def attach(target: str, volume: str, listing: bool, as_json: bool) -> None:
    """Attach a volume to the running container TARGET.

    TARGET is docker:NAME, podman:NAME, pid:N, or the name of a container of `fusevol run`. The
    volume is a NAME (or NAME/SUBDIR) or a PATH; `fusevol serve` must be running. The volume stays
    until it is detached or the container exits. Engines do not know about it (`docker inspect` does
    not show it).

    \b
      fusevol attach docker:web data:/data:ro
      fusevol detach docker:web /data
    """
    if listing:
        if target or volume:
            raise UsageError("--list takes no TARGET; it lists all attached volumes")
        _list(as_json)
        return
    if not volume:
        raise UsageError("missing volume; use fusevol attach TARGET NAME:/DST")
    if as_json:
        raise UsageError("--json requires --list")
    _attach(target, volume)


@click.command()
@click.argument("target")
@click.argument("destination", metavar="/DST")
@click.option("-l", "--lazy", is_flag=True, help="Detach even if in use; open files stay usable.")
def detach(target: str, destination: str, lazy: bool) -> None:
    """Detach a volume from the running container TARGET.

    Whatever the container had at /DST before is visible again.
    """
    from fusevol.binding import attach as attaching
    from fusevol.options.binding import normal_destination

    destination = normal_destination(destination)
    _check_root("detach")
    attachment = _attachment(target, destination)
    if not attaching.detach(attachment, lazy=lazy):
        click.echo(
            f"fusevol: {printable(destination)} of {printable(target)} had already been unmounted "
            f"from inside the container",
            err=True,
        )
    _give_back(attachment)


def _attachment(word: str, destination: str) -> "Attachment":
    """Return what is attached there; known by the target's word, too, if the engine is away."""
    from fusevol.binding.attach import find_attachment
    from fusevol.binding.attachments import attachments
    from fusevol.containers.target import find_target

    try:
        found = find_attachment(find_target(word).id, destination)
    except NotFoundError:
        known = [
            one for one in attachments() if (one.target, one.destination) == (word, destination)
        ]
        if not known:
            raise
        found = known[0]
    if found is None:
        raise NotFoundError(
            f"nothing is attached to {word} at {destination}; see `fusevol attach --list`"
        )
    return found


def _give_back(attachment: "Attachment") -> None:
    from fusevol.server.control import Client

    try:
        with Client() as daemon:
            daemon.unmount(attachment.volume, attachment.holder)
    except NotFoundError as error:
        # The volume is gone, or the daemon is away and learns of it by the container's end.
        click.echo(
            f"fusevol: {printable(attachment.volume)} counts as in use until the container exits: "
            f"{printable(str(error))}",
            err=True,
        )


def _attach(word: str, text: str) -> None:
    from fusevol.binding import attach as attaching
    from fusevol.binding.attachments import holder
    from fusevol.containers.target import find_target
    from fusevol.options.binding import parse_binding
    from fusevol.server.control import Client

    binding = parse_binding(text)
    _check_root("attach")
    target = find_target(word)
    attaching.check(target, binding.destination)
    if stale := attaching.find_attachment(target.id, binding.destination):
        # It was unmounted from inside, as there is nothing mounted now.
        stale.forget()
        _give_back(stale)
    with Client() as daemon:
        name = binding.volume
        if not binding.is_named:
            name = daemon.create("", {"source": name} if name else {}).name
        try:
            state = daemon.mount(name, holder(target.id, binding.destination), target.process.pid)
            source = "/".join(filter(None, (binding.volume or name, binding.subpath)))
            served = attaching.AttachSource(
                name, source, state.mountpoint, daemon.pid, binding.subpath
            )
            attaching.attach(target, served, binding.destination, binding.read_only)
        except BaseException as error:
            # A signal may have come when it was attached already.
            attached = attaching.find_attachment(target.id, binding.destination)
            if isinstance(error, FusevolError) or attached is None:
                # By another connection: on this one an answer may still be due.
                with Client() as other, suppress(NotFoundError):
                    other.unmount(name, holder(target.id, binding.destination))
            raise


def _check_root(command: str) -> None:
    if os.geteuid() != 0:
        raise NotPermittedError(
            f"fusevol {command} requires root, as it enters the container's mount namespace"
        )


def _list(as_json: bool) -> None:
    from fusevol.binding.attachments import attachments

    found = attachments()
    if as_json:
        click.echo(
            json.dumps(
                [
                    {
                        "target": one.target,
                        "container": one.container,
                        "name": one.name,
                        "pid": one.process.pid,
                        "volume": one.volume,
                        "source": one.source,
                        "destination": one.destination,
                        "read_only": one.read_only,
                        "since": one.since,
                    }
                    for one in found
                ]
            )
        )
        return
    if not found:
        click.echo("no volumes are attached")
    for one in found:
        mode = " (read-only)" if one.read_only else ""
        what = f"{printable(one.source)} at {printable(one.destination)}{mode}"
        click.echo(f"{printable(one.target)}: {what} since {one.since}")
