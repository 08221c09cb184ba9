"""`fusevol log key`: the public key of this host's chained logs."""

import click

from fusevol.errors import NotFoundError
from fusevol.proof import keys


@click.command()
@click.option("--public", is_flag=True, help="The public key as PEM; what is shown anyway.")
def key(public: bool) -> None:
    """Print the public key that the checkpoints of this host's chained logs are signed with.

    Who has it can verify these signatures elsewhere: fusevol log verify --public-key FILE. The
    secret one is never shown.

    \b
      fusevol log key --public > web1.pem
    """
    del public
    try:
        pem = keys.load().public().pem()
    except NotFoundError:
        raise NotFoundError(
            f"no log was chained here yet, so there is no key ({keys.key_path()}); the first "
            f"mount or volume with the option chain makes it"
        ) from None
    click.echo(pem.decode(), nl=False)
