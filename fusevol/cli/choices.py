"""Words that are chosen from some: commands and values, with what was meant by a wrong one."""

from collections.abc import Iterable, Sequence

import click
from click.shell_completion import CompletionItem

from fusevol.spelling import did_you_mean


class Group(click.Group):
    """A group that says what may have been meant by an unknown command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` begin with.

        Raises:
            click.UsageError: there is none of this name.
        """
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing and name[:1] != "-":
            meant = did_you_mean(name, self.list_commands(ctx)) or "."
            ctx.fail(f"No such command {name!r}{meant}")
        return super().resolve_command(ctx, args)


class OneOf(click.Choice[str]):
    """One of some words."""

    def get_invalid_choice_message(self, value: str, ctx: click.Context | None) -> str:
        """Return the error, with what may have been meant."""
        meant = did_you_mean(value, self.choices)
        return f"{value!r} is unknown{meant}" if meant else (
            super().get_invalid_choice_message(value, ctx)
        )  # fmt: skip


class SeveralOf(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """Words of some, separated by commas."""

    name = "words"

    def __init__(self, words: Sequence[str]) -> None:
        self._one = OneOf(words)

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Return the words; click.BadParameter if one is none of them."""
        return tuple(self._one.convert(word.strip(), param, ctx) for word in value.split(","))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer what the last word may become."""
        before, comma, word = incomplete.rpartition(",")
        return [
            CompletionItem(f"{before}{comma}{choice}")
            for choice in self._one.choices
            if choice.startswith(word)
        ]


def flattened(
    _context: click.Context, _parameter: click.Parameter, value: Iterable[Sequence[str]]
) -> tuple[str, ...]:
    """Return the words of an option that takes several, and can be repeated."""
    return tuple(word for words in value for word in words)
