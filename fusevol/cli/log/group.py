"""`fusevol log`: look into access logs."""

import click

from fusevol.cli.choices import Group
from fusevol.cli.log.import_filter import import_filter
from fusevol.cli.log.key import key
from fusevol.cli.log.query import query
from fusevol.cli.log.report import report
from fusevol.cli.log.show import show
from fusevol.cli.log.stats import stats
from fusevol.cli.log.tail import tail
from fusevol.cli.log.verify import verify


@click.group(cls=Group)
def log() -> None:
    """Read access logs: who did what to a volume, and the result."""


log.add_command(tail)
log.add_command(show)
log.add_command(stats)
log.add_command(query)
log.add_command(verify)
log.add_command(key)
log.add_command(report)
log.add_command(import_filter)
