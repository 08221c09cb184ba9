"""What is there all the time: a daemon, and a mount of somebody else that has to stay untouched."""

import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.engines.daemon import Daemon, plain_daemon
from tests.mounted.mounting import workspace

_CONTENT: Final = "untouched\n"


@dataclass(frozen=True)
class Surroundings:
    """What volumes have in common.

    Attributes:
        directory: on a disk.
        theirs: a file in a bindfs that has nothing to do with any volume.
        recorded: how often the logs of all volumes had each operation of clients.
    """

    directory: Path
    daemon: Daemon
    theirs: Path
    recorded: Counter[str] = field(default_factory=Counter)

    def check_theirs(self) -> None:
        """Check that what belongs to others answers."""
        assert self.theirs.read_text() == _CONTENT


@contextmanager
def surroundings() -> Iterator[Surroundings]:
    """Have them inside the block; all commands of fusevol use the directories of the daemon."""
    with plain_daemon() as daemon, workspace() as directory, pytest.MonkeyPatch.context() as patch:
        for name, value in daemon.env.items():
            patch.setenv(name, value)
        with _bindfs(directory / "of-others", directory / "theirs") as theirs:
            yield Surroundings(directory, daemon, theirs)


@contextmanager
def _bindfs(source: Path, mountpoint: Path) -> Iterator[Path]:
    for path in (source, mountpoint):
        path.mkdir()
    (source / "file").write_text(_CONTENT)
    subprocess.run(["bindfs", source, mountpoint], check=True)
    try:
        yield mountpoint / "file"
    finally:
        subprocess.run(["umount", mountpoint], check=True)
