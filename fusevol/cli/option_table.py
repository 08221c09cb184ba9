"""The table of options in help texts, and in what shells complete."""

import re
from collections.abc import Callable
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from fusevol.options.table import LEGEND, OPTIONS, Option, Place, forms_of, rows_of

SECTION: Final = "Options after -o"

_LAST_WORD: Final = re.compile(r"(?:.*(?<!\\),)?", re.DOTALL)

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


class CommandWithOptions(click.Command):
    """A command that takes options of the table after -o, and explains them in its help."""

    def __init__(
        self, *args: Any, place: Place, shows_changes: bool = False, **kwargs: Any
    ) -> None:
        """Make one.

        Args:
            place: whose options it takes.
            shows_changes: the help says when a change takes effect.
        """
        super().__init__(*args, **kwargs)
        self._place = place
        self._shows_changes = shows_changes

    def rows(self) -> list[tuple[str, str]]:
        """Return the options, and what there is to say of each."""
        return [
            (", ".join(forms_of(row, self._place)), self._described(row[0]))
            for row in rows_of(self._place)
        ]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of the command, then those after -o."""
        super().format_options(ctx, formatter)
        with formatter.section(SECTION):
            formatter.write_dl(self.rows())
        with formatter.indentation():
            formatter.write_paragraph()
            formatter.write_text(LEGEND)

    def _described(self, option: Option) -> str:
        text = f"{option.help[0].upper()}{option.help[1:]}."
        if self._shows_changes:
            return f"{text}  [changes {option.change}]"
        return f"{text}  [default: {option.default}]"


def complete_options(place: Place) -> Complete:
    """Return what completes the value of -o; of several mount options, the last one."""

    def complete(
        _context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        start = _LAST_WORD.match(incomplete) if place is Place.MOUNT else None
        before = start[0] if start is not None else ""
        candidates = (
            before + text
            for option in OPTIONS
            if option.place & place
            for text in option.candidates(place)
        )
        return [CompletionItem(text) for text in candidates if text.startswith(incomplete)]

    return complete
