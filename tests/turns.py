"""What a machine has only once is used by one module of tests at a time.

A module says so by a mark. Then a run with several processes has one of them run all modules with
this mark, and two runs on a machine wait for each other.
"""

import fcntl
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

ONE_PLUGIN: Final = pytest.mark.xdist_group("plugin")
"""The place where dockerd looks for plugins, which is built into it."""

_LOCKS: Final = Path("/run/lock")


class Turns:
    """Holds the turn of the test that runs now; one process's."""

    def __init__(self) -> None:
        self._holding: str | None = None
        self._lock = ExitStack()

    def take(self, item: pytest.Item) -> None:
        """Wait until no other run has the turn that a test needs."""
        name = _name(item)
        if name is not None and name != self._holding:
            file = self._lock.enter_context((_LOCKS / f"fusevol-tests-{name}").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
            self._holding = name

    def give_back(self, following: pytest.Item | None) -> None:
        """Let others have it, unless the test that follows needs it too."""
        if self._holding is not None and _name(following) != self._holding:
            self._lock.close()
            self._holding = None

    def assert_taken(self, mark: pytest.MarkDecorator) -> None:
        """Check that the module whose test runs now has the mark."""
        assert self._holding == mark.args[0], f"pytestmark lacks the turn {mark.args[0]!r}"


def _name(item: pytest.Item | None) -> str | None:
    mark = item.get_closest_marker("xdist_group") if item else None
    return str(mark.args[0]) if mark else None


turns: Final = Turns()
