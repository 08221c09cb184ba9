"""A mount that is served by a copy of the package, which tests may change."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fusevol as package_proper
from tests.served import Record, fusevol, read_log


@dataclass
class Installed:
    """The copy, and the mount."""

    package: Path
    mountpoint: Path
    log: Path

    def __call__(self, *words: str | Path, check: bool = True) -> str:
        """Run a command of the copy; return what it printed, or what it said when it failed."""
        env = {**os.environ, "PYTHONPATH": str(self.package.parent)}
        done = fusevol(*words, check=check, env=env)
        return done.stderr if done.returncode else done.stdout

    def change(self, module: str, old: str, new: str) -> None:
        """Change the text of a module."""
        path = self.package / module
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def serving(self) -> tuple[int, int, int]:
        """Return the keeper, the worker and the number of restarts."""
        for mount in json.loads(self("status", "--json")):
            if mount["mountpoint"] == str(self.mountpoint):
                return mount["pid"], mount["worker"], mount["restarts"]
        raise AssertionError(f"{self.mountpoint} is not served")

    def last_record(self, op: str) -> Record:
        """Return the newest record of an operation."""
        return [record for record in read_log(self.log) if record["op"] == op][-1]


@contextmanager
def mounted_by(directory: Path, *options: str) -> Iterator[Installed]:
    """Have a mount inside the block; `options` are further words of `fusevol mount`."""
    package = directory / "code" / "fusevol"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(package_proper.__file__).parent, package, ignore=ignore)
    for name in ("source", "volume"):
        (directory / name).mkdir()
    copy = Installed(package, directory / "volume", directory / "log")
    copy("mount", directory / "source", copy.mountpoint, "--log", copy.log, *options)
    try:
        yield copy
    finally:
        # Also when a test has failed and a call into the volume still waits.
        copy("unmount", "--force", copy.mountpoint)
