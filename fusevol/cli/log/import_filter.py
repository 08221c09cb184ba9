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
    help="Where LoggedFS served its directory, which expressions may begin with.",
)  # fmt: skip
@click.option(
    "--as-option", is_flag=True, help="One word for -o of `fusevol mount`, commas escaped."
)
def import_filter(file: BinaryIO, mountpoint: str, as_option: bool) -> None:
    """Print the options by which fusevol records what LoggedFS does with FILE.xml.

    \b
    fusevol mount /srv/data /mnt/data -o "$(fusevol log import-filter --as-option loggedfs.xml)"

    Where they do not mean quite the same, stderr says so. They print nothing if all is recorded.
    """
    found = translate(file.read(), mountpoint)
    for note in found.notes:
        click.echo(f"fusevol: {printable(note)}", err=True)
    words = [f"{key}={value}" for key, value in found.options.items()]
    if as_option:
        words = [",".join(word.replace(",", "\\,") for word in words)]
    for word in words:
        click.echo(printable(word) if sys.stdout.isatty() else word)
