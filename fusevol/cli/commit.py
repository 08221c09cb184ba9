"""`fusevol commit`: an image of a container of `fusevol run`."""

import json
import signal
import sys

import click

from fusevol.containers.state import find_container
from fusevol.options.binding import Binding
from fusevol.terminal import printable


@click.command()
@click.argument("name")
@click.argument("target", metavar="IMAGE")
@click.option("-m", "--message", default="", help="Message for the image's history.")
@click.option("-a", "--author", default="", help="Author of the image.")
@click.option(
    "-c",
    "--change",
    "changes",
    multiple=True,
    metavar="INSTRUCTION",
    help="Change the image's settings like a line of a Dockerfile: CMD, ENTRYPOINT, ENV, "
    "EXPOSE, LABEL, STOPSIGNAL, USER or WORKDIR. Can be repeated.",
)
@click.option(
    "--pause/--no-pause",
    default=True,
    show_default=True,
    help="Pause a running container while its changes are read.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def commit(
    name: str,
    target: str,
    message: str,
    author: str,
    changes: tuple[str, ...],
    pause: bool,
    as_json: bool,
) -> None:
    """Make an image from the changes in the container NAME.

    The changes become a new layer on top of the image that the container was made from. IMAGE is
    oci:DIR[:TAG], oci-archive:FILE[:NAME] or docker-archive:FILE[:NAME[:TAG]]; FILE can be "-".
    Volumes are not part of the image; those left out are listed. Prints the digest of the manifest.
    With SOURCE_DATE_EPOCH set, the same changes make the same image.

    \b
      fusevol commit web docker-archive:web.tar:web:1
      docker load -i web.tar
      fusevol commit web oci:images:web -c 'CMD ["/bin/server"]' -c 'ENV PORT=80'
    """
    from fusevol.images.commit import Wishes
    from fusevol.images.commit import commit as make
    from fusevol.images.mount_points import described
    from fusevol.images.reference import parse_target

    container = find_container(name)
    parsed = parse_target(target)
    # Temporary files and a container that stands still are taken care of on the way out.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    made = make(container, parsed, Wishes(message, author, changes, pause))
    if not made.consistent:
        click.echo(
            f"fusevol: {container.name} kept running; changes made meanwhile may be only partly in "
            f"the image",
            err=True,
        )
    left_out = [(binding, described(container, binding)) for binding in container.bindings]
    to_stderr = parsed.path == "-"
    if as_json:
        document = {
            "digest": made.digest,
            "config": made.config_digest,
            "consistent": made.consistent,
            "left_out": [
                {
                    "volume": binding.volume,
                    "destination": binding.destination,
                    "mount_point": mount_point,
                }
                for binding, mount_point in left_out
            ],
        }
        click.echo(json.dumps(document), err=to_stderr)
        return
    for binding, mount_point in left_out:
        click.echo(_left_out(binding, mount_point), err=True)
    click.echo(made.digest, err=to_stderr)


def _left_out(binding: Binding, mount_point: str) -> str:
    volume = f"volume {printable(binding.volume)}" if binding.volume else "an anonymous volume"
    return f"left out: {volume} at {printable(binding.destination)} (in the image: {mount_point})"
