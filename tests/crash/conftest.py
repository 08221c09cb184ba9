"""Mounts served by code that tests may change."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.installed import Installed, mounted_by


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installed]:
    with mounted_by(tmp_path) as copy:
        yield copy
