"""`fusevol log key`: the public key of this host's chained logs."""

import click

from fusevol.errors import NotFoundError
from fusevol.proof import keys


@click.command()
@click.option("--public", is_flag=True, help="Print the public key as PEM (the default).")
def key(public: bool) -> None:
    """Print the public key for verifying chained logs.

    With it, the signatures of checkpoints can be verified on another host: fusevol log verify
    --public-key FILE. The secret key is never shown.

    \b
      fusevol log key --public > web1.pem
    """
    del public
    try:
        pem = keys.load().public().pem()
    except NotFoundError:
        raise NotFoundError(
            f"no chain key at {keys.key_path()}, as no log on this host is chained; the first "
            f"mount or volume with the option chain creates it"
        ) from None
    click.echo(pem.decode(), nl=False)
