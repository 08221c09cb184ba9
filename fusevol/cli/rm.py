"""`fusevol rm`: remove containers of `fusevol run`."""

import signal
import time
from typing import Final

import click

from fusevol.containers.state import Container, find_container
from fusevol.errors import FusevolError
from fusevol.runtime.volumes import clean_up
from fusevol.terminal import printable

_END_S: Final = 20.0


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-f", "--force", is_flag=True, help="Kill running containers with SIGKILL.")
def rm(names: tuple[str, ...], force: bool) -> None:
    """Remove containers and the changes in their root file systems.

    DELETES everything that the containers wrote outside their volumes. Volumes and access logs
    stay. NAME can also be the container's id, or its first digits.
    """
    failed: FusevolError | None = None
    for name in names:
        try:
            container = find_container(name)
            _end(container, force)
        except FusevolError as error:
            if failed is not None:
                click.echo(f"fusevol: {printable(str(failed))}", err=True)
            failed = error
            continue
        clean_up(container)
        container.remove()
        click.echo(name)
    if failed is not None:
        raise failed


def _end(container: Container, force: bool) -> None:
    """Make sure that none of its processes runs."""
    deadline = time.monotonic() + _END_S
    while container.is_running or container.is_watched:
        if not force and (container.init is None or container.is_running):
            raise FusevolError(f"container {container.name} is running; stop it, or use --force")
        first = container.init or container.monitor
        if first is not None:
            first.signal(signal.SIGKILL)
        if time.monotonic() > deadline:
            raise FusevolError(
                f"container {container.name} did not exit within {_END_S:g} s after SIGKILL; check "
                f"for processes that wait for a device or a volume"
            )
        time.sleep(0.02)
        try:
            container = Container.load(container.id)
        except FileNotFoundError:
            return
