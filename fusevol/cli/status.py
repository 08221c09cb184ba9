"""`fusevol status`: what is served here."""

import sys

import click

from fusevol.accesslog.text import printable
from fusevol.daemon import registry
from fusevol.daemon.encoding import encode


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def status(as_json: bool) -> None:
    """List the mounts that you serve on this host."""
    served = registry.all_served()
    if as_json:
        sys.stdout.buffer.write(encode(served) + b"\n")
        return
    if not served:
        click.echo("nothing is served")
    for mount in served:
        click.echo(printable(mount.mountpoint))
        click.echo(f"  source {printable(mount.source)}")
        click.echo(f"  level  {mount.level}")
        click.echo(f"  log    {printable(mount.log)}")
        worker = f"worker {mount.worker}" if mount.worker else "no worker"
        times = {0: "", 1: ", restarted once"}.get(
            mount.restarts, f", restarted {mount.restarts} times"
        )
        click.echo(f"  keeper {mount.pid}, {worker}{times}")
        if mount.message:
            click.echo(f"  {printable(mount.message)}")
