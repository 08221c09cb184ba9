"""`fusevol commit`: an image of a container of `fusevol run`."""

import json

import click

from fusevol.accesslog.text import printable
from fusevol.container.state import find_container


@click.command()
@click.argument("name")
@click.argument("target", metavar="IMAGE")
@click.option("-m", "--message", default="", help="Goes into the image's history.")
@click.option("-a", "--author", default="", help="Goes into the image.")
@click.option(
    "--pause/--no-pause",
    default=True,
    show_default=True,
    help="Stop a running container meanwhile.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was made, as JSON.")
def commit(
    name: str, target: str, message: str, author: str, pause: bool, as_json: bool
) -> None:  # fmt: skip
    """Make an image of what the container NAME changed, on top of the image it was made from.

    IMAGE is oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME[:TAG]]. Nothing of a
    volume is in it; what was left out is said. Prints the digest of the manifest. With
    SOURCE_DATE_EPOCH set, the same changes make the same image.

    \b
      fusevol commit web docker-archive:web.tar:web:1
      docker load -i web.tar
    """
    from fusevol.container.commit import commit as make
    from fusevol.container.layout import parse_target

    container = find_container(name)
    made = make(container, parse_target(target), message=message, author=author, pause=pause)
    if not made.paused:
        click.echo(
            f"fusevol: {container.name} went on running; what it changed meanwhile may be in the "
            f"image in part",
            err=True,
        )
    left_out = [
        {"volume": binding.volume, "destination": binding.destination}
        for binding in container.bindings
    ]
    if as_json:
        click.echo(
            json.dumps({"digest": made.digest, "config": made.config_digest, "left_out": left_out})
        )
        return
    for binding in container.bindings:
        volume = binding.volume or "a volume of its own"
        click.echo(
            f"left out: {printable(volume)} at {printable(binding.destination)}, which is empty in "
            f"the image unless the image itself has something there",
            err=True,
        )
    click.echo(made.digest)
