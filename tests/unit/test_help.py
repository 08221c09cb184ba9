"""What `--help` of the groups shows: each command, in its section, with a whole summary."""

import re
from collections.abc import Iterator
from typing import Final

import click
import pytest
from click.testing import CliRunner

from fusevol.cli.main import SECTIONS, cli

_COLUMNS: Final = 80


def groups(command: click.Command = cli, *path: str) -> Iterator[tuple[str, ...]]:
    if isinstance(command, click.Group):
        yield path
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from groups(below, *path, name)


def shown(*path: str) -> str:
    done = CliRunner().invoke(cli, [*path, "--help"], env={"COLUMNS": str(_COLUMNS)})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("path", list(groups()), ids=lambda path: "-".join(path) or "fusevol")
def test_summaries_are_whole(path: tuple[str, ...]) -> None:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    assert isinstance(command, click.Group)
    text = shown(*path)
    assert max(map(len, text.splitlines())) <= _COLUMNS
    for name in command.list_commands(click.Context(command)):
        [row] = re.findall(rf"(?m)^  {name} +(\S.*)$", text)
        # A summary that does not fit ends in dots; one without a full stop goes on below.
        assert re.fullmatch(r".*[^.]\.", row), f"{name}: {row}"


def test_commands_stand_in_their_sections() -> None:
    sections = dict(re.findall(r"(?ms)^(\w+):\n(.*?)(?:\n\n|\Z)", shown()))
    for title, commands in SECTIONS.items():
        assert re.findall(r"(?m)^  (\S+)", sections[title]) == list(commands)
    # A section of click itself would list commands a second time.
    assert set(sections) == {"Options", *SECTIONS}
