"""The questions of docs/questions.md, as commands to run."""

import re
import shlex
import sys
from pathlib import Path
from typing import Final, NamedTuple

PAGE: Final = Path(__file__).parents[1] / "docs/questions.md"

_FUSEVOL: Final = (sys.executable, "-c", "from fusevol.cli.main import main; main()")
_LOG: Final = "data.log"
_QUESTION: Final = re.compile(r"^## (?P<title>.+)\n\n(?P<command>(?: {4}.+\n)+)", re.MULTILINE)


class Question(NamedTuple):
    title: str
    words: tuple[str, ...]

    def about(self, log: Path) -> tuple[str, ...]:
        """Return the command that asks `log`."""
        words = (str(log) if word == _LOG else word for word in self.words)
        return (*_FUSEVOL, *words)


def questions(page: Path = PAGE) -> list[Question]:
    """Return the questions of a page: a heading each, and below it the command."""
    return [
        Question(found["title"], tuple(shlex.split(found["command"]))[1:])
        for found in _QUESTION.finditer(page.read_text())
    ]
