"""`fusevol attach` and `fusevol detach`: volumes of running containers."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from fusevol.errors import FusevolError, NotFoundError, NotPermittedError, UsageError
from fusevol.terminal import printable

if TYPE_CHECKING:
    from fusevol.binding.attach import AttachSource
    from fusevol.binding.attachments import Attachment
    from fusevol.containers.target import RunningContainer
    from fusevol.options.binding import Binding


@click.command()
@click.argument("target", default="")
@click.argument("volume", default="", metavar="NAME|PATH:/DST[:ro]")
@click.option("--list", "listing", is_flag=True, help="List the attached volumes.")
@click.option("--json", "as_json", is_flag=True, help="With --list: print a JSON array.")
def attach(target: str, volume: str, listing: bool, as_json: bool) -> None:
    """Attach a volume to the running container TARGET.

    TARGET is docker:NAME, podman:NAME, pid:N, or the name of a container of `fusevol run`. The
    volume is a NAME (or NAME/SUBDIR) of `fusevol serve`, or a PATH of the host, which needs no
    daemon. It stays until it is detached or the container exits. Engines do not know about it
    (`docker inspect` does not show it).

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
    _give_back(attachment, lazy)


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


def _give_back(attachment: "Attachment", lazy: bool = False) -> None:
    if attachment.mountpoint:
        from fusevol.runtime import paths

        # What still uses it goes on; it ends with the container then.
        if not lazy:
            paths.end({attachment.mountpoint: None})
        return
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
    from fusevol.containers.target import find_target
    from fusevol.options.binding import parse_binding

    binding = parse_binding(text)
    _check_root("attach")
    target = find_target(word)
    attaching.check(target, binding.destination)
    if stale := attaching.find_attachment(target.id, binding.destination):
        # It was unmounted from inside, as there is nothing mounted now.
        stale.forget()
        _give_back(stale)
    if binding.volume.startswith("/"):
        _attach_path(target, binding)
    else:
        _attach_volume(target, binding)


def _attach_path(target: "RunningContainer", binding: "Binding") -> None:
    """Attach a path of the host by a mount of its own, which ends with the container."""
    from fusevol.binding.attach import AttachSource
    from fusevol.runtime import paths

    path = binding.volume
    mountpoint = paths.serve_attached(path, target.name, binding.destination, target.process.pid)
    source = AttachSource(path, path, mountpoint, os.getpid(), is_own=True)
    _move(target, binding, source, lambda: paths.end({mountpoint: None}))


def _attach_volume(target: "RunningContainer", binding: "Binding") -> None:
    """Attach a volume of `fusevol serve`, which counts a reference of the container."""
    from fusevol.binding.attach import AttachSource
    from fusevol.binding.attachments import holder
    from fusevol.server.control import Client

    by = holder(target.id, binding.destination)
    with Client() as daemon:
        name = binding.volume or daemon.create("", {}).name

        def give_back() -> None:
            # By another connection: on this one a reply may still be due.
            with Client() as other, suppress(NotFoundError):
                other.unmount(name, by)

        try:
            state = daemon.mount(name, by, target.process.pid)
        except BaseException:
            give_back()
            raise
        called = "/".join(filter(None, (name, binding.subpath)))
        source = AttachSource(name, called, state.mountpoint, daemon.pid, binding.subpath)
        _move(target, binding, source, give_back)


def _move(
    target: "RunningContainer",
    binding: "Binding",
    source: "AttachSource",
    give_back: Callable[[], None],
) -> None:
    """Move a copy of a mount into a container; have it given back if that fails."""
    from fusevol.binding import attach as attaching

    try:
        attaching.attach(target, source, binding.destination, binding.read_only)
    except BaseException as error:
        # A signal may have come when it was attached already.
        attached = attaching.find_attachment(target.id, binding.destination)
        if isinstance(error, FusevolError) or attached is None:
            give_back()
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
