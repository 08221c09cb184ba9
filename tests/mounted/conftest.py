"""Mounts that live as long as a test module."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.mounting import Served, serving, workspace


@pytest.fixture(scope="module")
def module_workspace() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("acts as several users, which takes root")
    with workspace() as path:
        yield path


@pytest.fixture(scope="module", params=["all", "data"])
def served(request: pytest.FixtureRequest, module_workspace: Path) -> Iterator[Served]:
    """A source on a disk, served at each record level."""
    level = request.param
    source = module_workspace / f"source-{level}"
    mountpoint = module_workspace / f"mount-{level}"
    source.mkdir()
    mountpoint.mkdir()
    log = module_workspace / f"{level}.log"
    with serving(source, mountpoint, log, level) as mounted:
        yield mounted
