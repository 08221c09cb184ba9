"""One table of checks, held against the host's file systems and against mounts of them.

A check that fails on "native" is a mistake of the check, not of fusevol.
"""

import importlib
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.mounted.checks.table import CHECKS
from tests.mounted.mounting import serving, tmpfs

for _topic in ("attributes", "content", "directories", "names", "opened", "rights"):
    importlib.import_module(f"tests.mounted.checks.{_topic}")

_PLACES: Final = ("native", "all", "data")
_STORAGES: Final = ("disk", "tmpfs")
_numbers: Final = itertools.count()


class Place(NamedTuple):
    """A file system under test; `level` is None for the host's own."""

    directory: Path
    level: str | None


@pytest.fixture(
    scope="module",
    params=itertools.product(_STORAGES, _PLACES),
    ids=lambda param: f"{param[1]}-{param[0]}",
)
def place(request: pytest.FixtureRequest, module_workspace: Path) -> Iterator[Place]:
    storage, level = request.param
    base = module_workspace / f"{storage}-{level}"
    base.mkdir()
    with ExitStack() as stack:
        source = base / "source"
        source.mkdir()
        if storage == "tmpfs":
            stack.enter_context(tmpfs(source))
        if level == "native":
            yield Place(source, None)
            return
        mountpoint = base / "mount"
        mountpoint.mkdir()
        stack.enter_context(serving(source, mountpoint, base / "log", level))
        yield Place(mountpoint, level)


@pytest.mark.timeout(900)  # twenty thousand entries, on a busy machine
@pytest.mark.parametrize("name", CHECKS)
def test_check(name: str, place: Place, request: pytest.FixtureRequest) -> None:
    check = CHECKS[name]
    if check.lacking is not None and place.level is not None:
        request.applymarker(pytest.mark.xfail(reason=check.lacking, strict=True))
    directory = place.directory / f"{next(_numbers)}"
    directory.mkdir()
    check.run(directory)
