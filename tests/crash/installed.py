"""A mount that is served by a copy of the package, which tests may change."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

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
