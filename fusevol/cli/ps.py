"""`fusevol ps`: the containers of `fusevol run`."""

import json
import shlex

import click

from fusevol.containers.state import Container, all_containers
from fusevol.options.binding import Binding
from fusevol.record.container_ids import SHORT_DIGITS, short_form
from fusevol.runtime.volumes import clean_up_abandoned
from fusevol.terminal import printable


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Include exited containers.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def ps(everything: bool, as_json: bool) -> None:
    """List the containers of `fusevol run`."""
    clean_up_abandoned()
    found = [one for one in all_containers() if everything or one.is_running]
    if as_json:
        click.echo(json.dumps([_described(one) for one in found]))
        return
    click.echo(f"{'ID':<{SHORT_DIGITS}}  {'NAME':<20} {'STATUS':<12} {'PID':>7}  COMMAND")
    for one in found:
        pid = str(one.init.pid) if one.init and one.is_running else "-"
        command = printable(shlex.join(one.command))
        click.echo(f"{short_form(one.id)}  {one.name:<20} {_status(one):<12} {pid:>7}  {command}")


def _status(one: Container) -> str:
    state = _state(one)
    return state if state != "exited" or one.status is None else f"exited ({one.status})"


def _state(one: Container) -> str:
    if one.is_running:
        return "running"
    return "starting" if one.init is None and one.is_watched else "exited"


def _described(one: Container) -> dict[str, object]:
    return {
        "id": one.id,
        "name": one.name,
        "status": _state(one),
        "pid": one.init.pid if one.init and one.is_running else 0,
        "exit_status": one.status,
        "created": one.created,
        "image": one.image,
        "command": one.command,
        "volumes": [_volume(binding) for binding in one.bindings],
    }


def _volume(binding: Binding) -> dict[str, object]:
    return {
        "volume": binding.volume,
        "subpath": binding.subpath,
        "destination": binding.destination,
        "read_only": binding.read_only,
    }
