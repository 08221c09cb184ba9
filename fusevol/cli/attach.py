"""`fusevol attach` and `fusevol detach`: volumes of running containers."""

import json
import os

import click

from fusevol.accesslog.text import printable
from fusevol.errors import NotPermittedError, UsageError


@click.command()
@click.argument("target", default="")
@click.argument("volume", default="", metavar="NAME|PATH:/DST[:ro]")
@click.option("--list", "listing", is_flag=True, help="List what is attached.")
@click.option("--json", "as_json", is_flag=True, help="With --list: print a JSON array.")
def attach(target: str, volume: str, listing: bool, as_json: bool) -> None:
    """Put a volume into the running container TARGET.

    TARGET is docker:NAME, podman:NAME, pid:N, or the name of a container of `fusevol run`. The
    volume is a NAME (or NAME/SUBDIR) or a PATH; `fusevol serve` has to run. It is there until it is
    detached or the container ends; engines know nothing of it (`docker inspect` does not show it).

    \b
      fusevol attach docker:web data:/data:ro
      fusevol detach docker:web /data
    """
    if listing:
        if target or volume:
            raise UsageError("--list takes no TARGET; it lists all that is attached")
        _list(as_json)
        return
    if not volume:
        raise UsageError("say what to attach: fusevol attach TARGET NAME:/DST")
    if as_json:
        raise UsageError("--json goes with --list")
    _attach(target, volume)


@click.command()
@click.argument("target")
@click.argument("destination", metavar="/DST")
@click.option("-l", "--lazy", is_flag=True, help="Also if it is in use; what uses it goes on.")
def detach(target: str, destination: str, lazy: bool) -> None:
    """Take an attached volume out of the running container TARGET.

    What the container had at that place is seen again.
    """
    from fusevol.container import attach as attaching
    from fusevol.container.engines import find_target
    from fusevol.daemon.control import Client
    from fusevol.errors import NotFoundError

    found = find_target(target)
    attachment = attaching.find_attachment(found, os.path.normpath(destination))
    attaching.detach(found, attachment, lazy=lazy)
    try:
        with Client() as daemon:
            daemon.unmount(attachment.volume, attachment.holder)
    except NotFoundError:
        # The daemon is away, or the volume is gone; nothing of ours is left there.
        return


def _attach(word: str, text: str) -> None:
    from fusevol.container import attach as attaching
    from fusevol.container.bind import open_subpath, parse_binding
    from fusevol.container.engines import find_target
    from fusevol.daemon.control import Client

    binding = parse_binding(text)
    if os.geteuid() != 0:
        raise NotPermittedError("fusevol attach takes root; it enters the container's namespace")
    target = find_target(word)
    attaching.check_target(target, binding.destination)
    holder = attaching.holder(target.id, binding.destination)
    with Client() as daemon:
        name = binding.volume
        if not binding.is_named:
            name = daemon.create("", {"source": name} if name else {}).name
        state = daemon.mount(name, holder, target.process.pid)
        try:
            tree_fd = open_subpath(state.mountpoint, binding.subpath)
            try:
                attaching.attach(
                    target, tree_fd, name, binding.volume or name, binding.destination,
                    binding.read_only,
                )  # fmt: skip
            finally:
                os.close(tree_fd)
        except BaseException:
            daemon.unmount(name, holder)
            raise


def _list(as_json: bool) -> None:
    from fusevol.container.attach import attachments

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
        click.echo("nothing is attached")
    for one in found:
        mode = " (read-only)" if one.read_only else ""
        what = f"{printable(one.source)} at {printable(one.destination)}{mode}"
        click.echo(f"{printable(one.target)}: {what} since {one.since}")
