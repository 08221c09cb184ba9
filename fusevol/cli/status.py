"""`fusevol status`: what is served here."""

import sys

import click
import msgspec

from fusevol.logagent import status as agent
from fusevol.mounts import log_trouble, registry
from fusevol.mounts.encoding import encode
from fusevol.mounts.visibility import hidden_from_host, why_not_here
from fusevol.terminal import printable


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def status(as_json: bool) -> None:
    """List the mounts that you serve on this host."""
    here = registry.all_served()
    elsewhere = registry.served_elsewhere()
    if as_json:
        entries = [
            msgspec.to_builtins(mount)
            | {
                "mounted": mount in here,
                "log_message": log_trouble.in_words(mount),
                "agent": agent.read(mount.log),
            }
            for mount in here + elsewhere
        ]
        sys.stdout.buffer.write(encode(entries) + b"\n")
        return
    if not here + elsewhere:
        click.echo("no mounts are served")
    for mount in here:
        _show(mount, hidden_from_host(mount.mountpoint))
    for mount in elsewhere:
        _show(mount, why_not_here(mount))


def _show(mount: registry.MountEntry, note: str) -> None:
    click.echo(printable(mount.mountpoint))
    if mount.name != mount.mountpoint:
        click.echo(f"  name   {printable(mount.name)}")
    click.echo(f"  source {printable(mount.source)}")
    click.echo(f"  level  {mount.level}")
    click.echo(f"  log    {printable(mount.log)}")
    if message := log_trouble.in_words(mount):
        click.echo(f"         {printable(message)}")
    worker = f"worker {mount.worker}" if mount.worker else "no worker"
    times = {0: "", 1: ", restarted once"}.get(
        mount.restarts, f", restarted {mount.restarts} times"
    )
    click.echo(f"  keeper {mount.pid}, {worker}{times}")
    for line in filter(None, (mount.message, note)):
        click.echo(f"  {printable(line)}")
    if mount.agent_trouble:
        click.echo(f"  log {printable(mount.agent_trouble)}")
    _show_sinks(mount.log)


def _show_sinks(log: str) -> None:
    status = agent.read(log)
    for sink in status.sinks if status else ():
        behind = f", {sink.behind} behind" if sink.behind else ""
        error = f": {sink.error}" if sink.error else ""
        click.echo(f"  sink   {printable(sink.sink)}, record {sink.seq}{behind}{printable(error)}")
