"""`fusevol status`: what is served here."""

import sys

import click
import msgspec

from fusevol.accesslog.text import printable
from fusevol.daemon import log_trouble, registry
from fusevol.daemon.encoding import encode
from fusevol.logagent import status as agent


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def status(as_json: bool) -> None:
    """List the mounts that you serve on this host."""
    served = registry.all_served()
    if as_json:
        told = [
            msgspec.to_builtins(mount)
            | {"log_message": log_trouble.in_words(mount), "agent": agent.read(mount.log)}
            for mount in served
        ]
        sys.stdout.buffer.write(encode(told) + b"\n")
        return
    if not served:
        click.echo("nothing is served")
    for mount in served:
        click.echo(printable(mount.mountpoint))
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
        if mount.message:
            click.echo(f"  {printable(mount.message)}")
        if mount.agent_trouble:
            click.echo(f"  log {printable(mount.agent_trouble)}")
        _show_sinks(mount.log)


def _show_sinks(log: str) -> None:
    status = agent.read(log)
    for sink in status.sinks if status else ():
        behind = f", {sink.behind} behind" if sink.behind else ""
        error = f": {sink.error}" if sink.error else ""
        click.echo(f"  sink   {printable(sink.sink)}, record {sink.seq}{behind}{printable(error)}")
