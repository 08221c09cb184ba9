"""`fusevol rm`: remove containers of `fusevol run`."""

import os
import signal
import time
from typing import Final

import click

from fusevol.cli.served import clean_up
from fusevol.container.state import Container, find_container
from fusevol.errors import FusevolError

_END_S: Final = 20.0


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-f", "--force", is_flag=True, help="End what runs in them, by SIGKILL.")
def rm(names: tuple[str, ...], force: bool) -> None:
    """Remove containers and what was changed in their root file systems.

    Volumes and access logs stay. NAME can be the container's id, or its beginning.
    """
    for name in names:
        container = find_container(name)
        _end(container, force)
        clean_up(container)
        container.remove()
        click.echo(name)


def _end(container: Container, force: bool) -> None:
    """Make sure that nothing of it runs."""
    if container.is_running and not force:
        raise FusevolError(f"container {container.name} is running; end it, or use --force")
    deadline = time.monotonic() + _END_S
    while container.is_running or (container.monitor is not None and container.monitor.runs()):
        if container.init is not None and container.is_running:
            os.kill(container.init.pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise FusevolError(f"container {container.name} does not end; see what holds it up")
        time.sleep(0.02)
