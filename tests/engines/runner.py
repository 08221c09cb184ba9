"""`fusevol run` for tests: with directories of its own, and nothing left when it is done."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.engines.machine import command, mounts, workspace
from tests.served import FUSEVOL, Record, read_log


@dataclass
class Runner:
    """`fusevol run` with directories of its own, without a daemon.

    Attributes:
        runtime: that makes its containers; the command's own choice if it is empty.
    """

    directory: Path
    rootfs: Path
    env: dict[str, str]
    runtime: str = ""

    def words(self, *words: str | Path) -> list[str]:
        runtime = ["--runtime", self.runtime] if self.runtime else []
        return [FUSEVOL, "run", *runtime, *map(str, words)]

    def of_rootfs(self, *words: str | Path) -> list[str]:
        return self.words("--interactive", "--rootfs", self.rootfs, *words)

    def run(self, *words: str | Path, check: bool = True) -> CompletedProcess[str]:
        """Run a container of the root file system to its end."""
        return command(*self.of_rootfs("--rm", *words), env=self.env, check=check)

    def cli(self, *words: str | Path, check: bool = True) -> CompletedProcess[str]:
        return command(FUSEVOL, *words, env=self.env, check=check)

    def ps(self) -> list[dict[str, Any]]:
        return list(json.loads(self.cli("ps", "--all", "--json").stdout))

    def find(self, name: str) -> dict[str, Any]:
        (found,) = [one for one in self.ps() if one["name"] == name]
        return found

    def records(self, log: str) -> list[Record]:
        return read_log(self.directory / "log" / f"{log}.log")


@contextmanager
def runner_of(rootfs: Path, runtime: str = "") -> Iterator[Runner]:
    """A runner; fails if anything is left of its containers at the end."""
    with workspace("run") as directory:
        env = {
            f"FUSEVOL_{name.upper()}_DIRECTORY": str(directory / name)
            for name in ("state", "runtime", "log")
        }
        for name in ("state", "runtime", "log"):
            (directory / name).mkdir(mode=0o700)
        yield Runner(directory, rootfs, env, runtime)
        assert left_over(directory) == []


def left_over(directory: Path) -> list[str]:
    """Return what is mounted, or in the way, after all containers have ended."""
    mounted = [mount.point for mount in mounts() if f"{directory}/" in mount.point]
    running = [
        path
        for name in ("runs", "containers", "*.tty")
        for path in (directory / "runtime").glob(name if "*" in name else f"{name}/*")
    ]
    return mounted + [str(path) for path in running]


def control_groups(container: str) -> list[Path]:
    """Return the control groups of a container."""
    return list(Path("/sys/fs/cgroup").glob(f"**/fusevol/{container}"))
