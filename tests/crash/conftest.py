"""Mounts served by code that tests may change."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import fusevol
from tests.crash.installed import Installed


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installed]:
    package = tmp_path / "code" / "fusevol"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(fusevol.__file__).parent, package, ignore=ignore)
    for name in ("source", "volume"):
        (tmp_path / name).mkdir()
    copy = Installed(package, tmp_path / "volume", tmp_path / "log")
    copy("mount", tmp_path / "source", copy.mountpoint, "--log", copy.log)
    try:
        yield copy
    finally:
        # Also when a test has failed and a call into the volume still waits.
        copy("unmount", "--force", copy.mountpoint)
