"""git makes repositories, clones and packs them, and checks every object."""

import random
import shutil
from pathlib import Path

from tests.crash.workload import Figures, Place, main
from tests.engines.machine import command

_FILES = 12
_COMMITS = 2
_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org",
}  # fmt: skip


def git(place: Place) -> Figures:
    """Make, clone, pack and check a repository, again and again.

    Raises:
        AssertionError: git met an error, or an object or file is not what was put in.
    """
    rng = random.Random()
    rounds = 0
    while place.goes_on():
        origin, clone = place.directory / "origin", place.directory / "clone"
        files = _fill(origin, rng)
        _run("clone", "-q", "--no-hardlinks", "--template=", origin, clone)
        _run("-C", clone, "gc", "-q", "--prune=now")
        for repository in (origin, clone):
            _run("-C", repository, "fsck", "--full", "--strict")
            said = _run("-C", repository, "status", "--porcelain")
            assert said == "", f"git status in {repository}: {said}"
            _compare(repository, files)
            shutil.rmtree(repository)
        rounds += 1
    return {"rounds": rounds}


def _fill(repository: Path, rng: random.Random) -> dict[str, bytes]:
    """Make a repository of some commits; return the content of its files."""
    _run("init", "-q", "-b", "main", "--template=", repository)
    files: dict[str, bytes] = {}
    for number in range(_COMMITS):
        for _file in range(_FILES):
            path = f"d{rng.randrange(4)}/f{rng.randrange(_FILES)}"
            files[path] = rng.randbytes(rng.randrange(5000))
            (repository / path).parent.mkdir(exist_ok=True)
            (repository / path).write_bytes(files[path])
        _run("-C", repository, "add", "-A")
        _run("-C", repository, "commit", "-q", "-m", f"commit {number}")
    return files


def _compare(repository: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        assert (repository / path).read_bytes() == content, f"{repository / path} has changed"


def _run(*words: str | Path) -> str:
    return command("git", *words, env=_ENVIRONMENT, seconds=300).stdout


if __name__ == "__main__":
    main(git)
