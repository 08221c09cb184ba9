"""`fusevol log`: look into access logs."""

import click

from fusevol.cli.log_show import show
from fusevol.cli.log_stats import stats
from fusevol.cli.log_tail import tail


@click.group()
def log() -> None:
    """Look into access logs: what was done to a volume, by whom, with what result."""


log.add_command(tail)
log.add_command(show)
log.add_command(stats)
