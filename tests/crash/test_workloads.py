"""The workloads themselves: they pass on a plain directory, and notice what is wrong with one.

Nothing is served here. A workload that fails here is wrong itself, and one that did not notice a
damage would notice no crash either.
"""

import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.crash.run import STORM
from tests.crash.running import Workload, await_end, workloads_in
from tests.served import needs_root, wait_until

pytestmark = needs_root

_SECONDS: Final = 1.0


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A directory for workloads, with one for their notes beside it."""
    (tmp_path / "scratch").mkdir()
    directory = tmp_path / "directory"
    directory.mkdir()
    return directory


@contextmanager
def storm_in(directory: Path, seconds: float = _SECONDS) -> Iterator[Workload]:
    """Run the storm inside the block, and wait for its end."""
    with workloads_in(directory, directory.with_name("scratch"), seconds, [STORM]) as [storm]:
        yield storm
        await_end([storm], seconds, lambda: False)


@pytest.mark.parametrize("name", [STORM, "fio", "git", "sqlite"])
def test_passes_on_a_plain_directory(plain: Path, name: str) -> None:
    scratch = plain.with_name("scratch")
    with workloads_in(plain, scratch, _SECONDS, [name]) as workloads:
        await_end(workloads, _SECONDS, lambda: False)
        assert all(workloads[0].figures().values())


def lose_a_directory(storm: Path) -> None:
    names = storm / "3/names"
    wait_until(names.exists, "a directory to take away")
    names.rename(storm.with_name("lost"))


def change_an_open_file(storm: Path) -> None:
    mapped = storm / "5/mapped"
    wait_until(mapped.exists, "the mapped file")
    wait_until((storm / "7/removed").exists, "the last client")
    with mapped.open("r+b", buffering=0) as file:
        # In each page, as the client may write some of them anew before it looks.
        for end in range(mmap.PAGESIZE, mapped.stat().st_size, mmap.PAGESIZE):
            file.seek(end - 8)
            file.write(os.urandom(8))


def repeat_a_line(storm: Path) -> None:
    appended = storm / "appended"
    wait_until(lambda: appended.exists() and appended.stat().st_size, "lines")
    with appended.open("ab") as file:
        file.write(b"1 1 \n")


def lower_the_counter(storm: Path) -> None:
    wait_until((storm / "7/removed").exists, "the last client")
    with (storm / "counted").open("r+b", buffering=0) as counted:
        fcntl.lockf(counted, fcntl.LOCK_EX)
        counted.write(b"%20d" % 0)


@pytest.mark.parametrize(
    ("damage", "noticed"),
    [
        (lose_a_directory, "3/names.*expected .*, got "),
        (change_an_open_file, "5/mapped: expected "),
        (repeat_a_line, "appended has .* were written"),
        (lower_the_counter, "counted says .* was raised"),
    ],
    ids=["directory", "content", "line", "counter"],
)
def test_the_storm_notices(plain: Path, damage: Callable[[Path], None], noticed: str) -> None:
    with storm_in(plain) as storm:
        damage(plain / STORM)
    with pytest.raises(AssertionError, match=noticed):
        storm.figures()
