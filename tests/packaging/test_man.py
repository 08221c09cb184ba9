"""The manual pages made of the help texts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MAN = Path(__file__).parents[2] / "scripts/man"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, MAN, directory], check=True)
    return directory


def test_every_command_has_a_page(pages: Path) -> None:
    assert {
        "fusevol.1", "fusevol-mount.1", "fusevol-unmount.1", "fusevol-status.1", "fusevol-log.1",
        "fusevol-log-tail.1", "fusevol-doctor.1", "fusevol-reload.1", "fusevol-completion.1",
        "mount.fusevol.8",
    } <= {path.name for path in pages.iterdir()}  # fmt: skip


def test_man_shows_all_pages_without_a_warning(pages: Path) -> None:
    for page in sorted(pages.iterdir()):
        done = subprocess.run(
            ["man", "--warnings", "--encoding=UTF-8", "--local-file", page],
            env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANPAGER": "cat"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr == "", page.name
        assert "SYNOPSIS" in done.stdout
        assert "DESCRIPTION" in done.stdout


def test_page_says_what_help_says(pages: Path) -> None:
    text = (pages / "fusevol-mount.1").read_text()
    assert ".B \\-\\-record all|data" in text
    assert "fusevol mount /srv/data /mnt/data" in text
    assert ".TP\n.B 5\nnot supported by this kernel or host" in text
