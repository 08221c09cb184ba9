"""Programs run on a volume served from an empty directory."""

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import pytest

from tests.patience import PATIENCE_S
from tests.served import Served, assert_no_gap_in_numbers, serve

_PROGRAM_S: Final = 4 * PATIENCE_S


class Run(Protocol):
    """Runs a program; fails with what it said if it does."""

    def __call__(
        self, *command: str | Path, cwd: Path | None = None, timeout: float = _PROGRAM_S
    ) -> str: ...


@pytest.fixture
def run() -> Run:
    def run_command(
        *command: str | Path, cwd: Path | None = None, timeout: float = _PROGRAM_S
    ) -> str:
        done = subprocess.run(
            list(map(str, command)), cwd=cwd, timeout=timeout, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            env={
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LC_ALL": "C.UTF-8", "HOME": "/nonexistent",
                "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org",
                "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org",
            },
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    return run_command


@pytest.fixture
def level() -> str:
    """The record level; tests that run at several parametrize it."""
    return "all"


@pytest.fixture
def served(tmp_path: Path, level: str) -> Iterator[Served]:
    # PostgreSQL's server does not run as root and has to reach its volume.
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    with serve(tmp_path, "--record", level) as mount:
        yield mount
    # Whatever a program does, its log stays whole.
    assert_no_gap_in_numbers(mount.records())


@pytest.fixture
def volume(served: Served) -> Path:
    return served.mountpoint


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with all that an archive has to keep, on the host."""
    root = tmp_path / "tree"
    rng = random.Random(1)
    for number in range(12):
        directory = root / f"d{number}" / "nested"
        directory.mkdir(parents=True)
        for size in (0, 1, 4095, 4096, 70_001):
            (directory / f"{size} bytes").write_bytes(rng.randbytes(size))
    (root / "large").write_bytes(rng.randbytes(3_000_000))
    with (root / "sparse").open("wb") as file:
        file.seek(5_000_000)
        file.write(b"end")
    (root / "d0" / "hard link").hardlink_to(root / "large")
    (root / "link").symlink_to("d1/nested")
    (root / "dangling").symlink_to("nowhere")
    (root / "été ☃").write_text("text")
    (root / "d2").chmod(0o2750)
    (root / "d3" / "nested" / "1 bytes").chmod(0o4711)
    # Long ago and all different: rsync and others take files of one second for the same.
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        moment = 1_000_000_000_000_000_000 + number * 7_123_456_789
        os.utime(path, ns=(moment, moment), follow_symlinks=False)
    return root


@pytest.fixture
def marked_tree(tree: Path, run: Run) -> Path:
    """The same with owners, ACLs and extended attributes."""
    run("chown", "-h", "1234:4321", tree / "d4", tree / "d4" / "nested" / "1 bytes", tree / "link")
    run("setfattr", "-n", "user.origin", "-v", "somewhere", tree / "large")
    run("setfattr", "-n", "user.directory", "-v", "x" * 300, tree / "d5")
    run("setfacl", "-m", "u:1234:rw,g:4321:r", tree / "d6" / "nested" / "4096 bytes")
    run("setfacl", "-d", "-m", "u:1234:rwx", tree / "d7")
    return tree


Listing = Callable[[Path], dict[str, tuple[object, ...]]]


@pytest.fixture
def listing() -> Listing:
    """Everything that stat(2) tells of a tree and a copy shall share, by relative path."""

    def list_tree(root: Path) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted(root.rglob("*")):
            status = path.lstat()
            link = path.readlink() if path.is_symlink() else None
            size = None if path.is_dir() else status.st_size
            found[str(path.relative_to(root))] = (
                oct(status.st_mode), status.st_uid, status.st_gid, size, status.st_mtime_ns,
                None if path.is_dir() else status.st_nlink, link,
            )  # fmt: skip
        return found

    return list_tree
