"""`fusevol log import-filter`: the filters of LoggedFS as options of fusevol."""

import sys
from typing import BinaryIO

import click

from fusevol.recording.loggedfs import translate
from fusevol.terminal import printable


@click.command("import-filter")
@click.argument("file", metavar="FILE.xml", type=click.File("rb"))
@click.option(
    "--mountpoint", metavar="DIR", default="",
    help="Where LoggedFS mounted its directory; expressions may begin with this path.",
)  # fmt: skip
@click.option(
    "--as-option",
    is_flag=True,
    help="Print one argument for `fusevol mount -o`, with commas escaped.",
)
def import_filter(file: BinaryIO, mountpoint: str, as_option: bool) -> None:
    """Translate a LoggedFS filter into fusevol options.

    Prints the options with which fusevol records what LoggedFS would log with FILE.xml.

    \b
    fusevol mount /srv/data /mnt/data -o "$(fusevol log import-filter --as-option loggedfs.xml)"

    Differences are reported on stderr. Prints nothing if everything is recorded.
    """
    found = translate(file.read(), mountpoint)
    for note in found.notes:
        click.echo(f"fusevol: {printable(note)}", err=True)
    words = [f"{key}={value}" for key, value in found.options.items()]
    if as_option:
        words = [",".join(word.replace(",", "\\,") for word in words)]
    for word in words:
        click.echo(printable(word) if sys.stdout.isatty() else word)
