"""`fusevol doctor`: can fusevol serve here, and what is missing."""

import sys
from typing import Final

import click
import msgspec

from fusevol.cli.options import color_option, wants_color
from fusevol.doctor import CheckResult, CheckState, findings
from fusevol.errors import UnsupportedError
from fusevol.terminal import printable

_COLORS: Final = {CheckState.OK: "green", CheckState.WARNING: "yellow", CheckState.MISSING: "red"}
_STATE_WIDTH: Final = 9
_CHECK_WIDTH: Final = 18


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@color_option
def doctor(as_json: bool, color: str) -> None:
    """Check whether fusevol can serve volumes on this host.

    Each line says ok, warning (works, with a loss) or missing (cannot serve), then what was found,
    what that costs and what to do. The check briefly mounts a file system on an empty directory in
    /tmp and changes nothing.

    Exit status 0 if fusevol can serve here, 5 if it cannot.
    """
    found = list(findings())
    missing = [finding.check for finding in found if finding.state is CheckState.MISSING]
    if as_json:
        report = {"serves": not missing, "checks": found}
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
        sys.stdout.buffer.flush()
    else:
        for finding in found:
            _show(finding, wants_color(color))
    if missing:
        raise UnsupportedError(f"cannot serve on this host: {', '.join(missing)}; see above")


def _show(finding: CheckResult, in_color: bool) -> None:
    state = f"{finding.state:<{_STATE_WIDTH}}"
    if in_color:
        state = click.style(state, fg=_COLORS[finding.state])
    click.echo(f"{state}{finding.check:<{_CHECK_WIDTH}}{printable(finding.found)}", color=in_color)
    indent = " " * (_STATE_WIDTH + _CHECK_WIDTH)
    if finding.costs:
        click.echo(f"{indent}costs: {printable(finding.costs)}")
    if finding.advice:
        click.echo(f"{indent}to do: {printable(finding.advice)}")
