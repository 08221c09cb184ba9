"""`fusevol completion`: completion for shells; and what commands offer to complete."""

import contextlib
from typing import Final

import click
from click.shell_completion import CompletionItem, get_completion_class

from fusevol.cli.choices import OneOf
from fusevol.errors import FusevolError
from fusevol.model import RecordLevel

_VARIABLE: Final = "_FUSEVOL_COMPLETE"
"""Environment variable that makes `fusevol` complete instead of run; click derives the same."""


@click.command()
@click.argument("shell", type=OneOf(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print a script that completes commands and options in SHELL.

    \b
    For bash, in this shell and in all new ones:
      source <(fusevol completion bash)
      fusevol completion bash > /etc/bash_completion.d/fusevol
    For zsh, in ~/.zshrc:
      source <(fusevol completion zsh)
    For fish:
      fusevol completion fish > ~/.config/fish/completions/fusevol.fish
    """
    made = get_completion_class(shell)
    assert made is not None, "click knows all three"
    template = made.source_template
    names = {"complete_func": "_fusevol_completion", "complete_var": _VARIABLE,
             "prog_name": "fusevol"}  # fmt: skip
    # Not made.source(): for bash it starts one to look at its version, and warns on stdout.
    click.echo(template % names)


def complete_level(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the record levels."""
    return [CompletionItem(level) for level in RecordLevel if level.startswith(incomplete)]


def complete_path(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the paths that the shell finds.

    As click.Path does, which also stats what it is given, and so hangs with a mount or source.
    """
    return [CompletionItem(incomplete, type="file")]


def complete_mountpoint(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the mount points that are served."""
    # Loaded here: completing other words does not need it.
    from fusevol.mounts import registry

    with contextlib.suppress(FusevolError, OSError):
        return [
            CompletionItem(served.mountpoint)
            for served in registry.all_served()
            if served.mountpoint.startswith(incomplete)
        ]
    return []
