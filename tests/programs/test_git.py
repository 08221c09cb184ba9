"""git: many small files, renames over existing ones, mmap of packs."""

from pathlib import Path

import pytest

from tests.programs.conftest import Run
from tests.served import needs_root, serve

pytestmark = needs_root


@pytest.fixture
def origin(tmp_path: Path, tree: Path, run: Run) -> Path:
    repository = tmp_path / "origin"
    run("git", "init", "-q", "-b", "main", repository)
    run("cp", "-a", f"{tree}/.", repository)
    for number in range(5):
        (repository / "counter").write_text(str(number))
        run("git", "add", "-A", cwd=repository)
        run("git", "commit", "-qm", f"commit {number}", cwd=repository)
    return repository


@pytest.mark.parametrize("level", ["all", "data"])
def test_a_repository_lives_on_the_volume(volume: Path, origin: Path, run: Run) -> None:
    clone = volume / "clone"
    run("git", "clone", "-q", "--no-hardlinks", origin, clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""

    run("git", "switch", "-qc", "work", cwd=clone)
    for number in range(5):
        (clone / f"new {number}").write_text(f"{number}\n" * 1000)
        run("git", "add", "-A", cwd=clone)
        run("git", "commit", "-qm", f"work {number}", cwd=clone)
    run("git", "mv", "d1", "moved", cwd=clone)
    run("git", "commit", "-qam", "move", cwd=clone)
    run("git", "switch", "-q", "main", cwd=clone)
    assert (clone / "d1").is_dir()
    run("git", "merge", "-q", "--no-ff", "-m", "merge", "work", cwd=clone)
    run("git", "gc", "-q", "--aggressive", "--prune=now", cwd=clone)

    run("git", "fsck", "--full", "--strict", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    run("git", "worktree", "add", "-q", volume / "worktree", "work", cwd=clone)
    assert run("git", "rev-list", "--count", "HEAD", cwd=volume / "worktree") == "11\n"
    run("git", "push", "-q", origin, "work", cwd=clone)


def test_files_look_unchanged_after_a_remount(tmp_path: Path, origin: Path, run: Run) -> None:
    """Inode numbers or times that differ would make git read every file again."""
    directory = tmp_path / "remounted"
    directory.mkdir()
    with serve(directory) as mount:
        clone = mount.mountpoint / "clone"
        run("git", "clone", "-q", "--no-hardlinks", origin, clone)
    with serve(directory):
        assert run("git", "diff-files", cwd=clone) == ""
