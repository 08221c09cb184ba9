"""OCI bundles for a plain runtime, without an engine."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.engines.machine import command, workspace
from tests.engines.podman import runtime_path
from tests.engines.rootfs import overlay
from tests.engines.shell import Shell


@dataclass
class Bundle:
    """A bundle and the runtime that runs it.

    Attributes:
        config: what becomes config.json when it is run; for tests to change.
    """

    runtime: Path
    directory: Path
    state: Path
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def rootfs(self) -> Path:
        """The root file system, as the host sees it."""
        return self.directory / "merged"

    def add_hook(
        self, stage: str, *words: str | Path, env: Mapping[str, str] | None = None
    ) -> None:
        """Add a hook.

        Args:
            stage: such as "createContainer".
            words: program (an absolute path) and its arguments, the program's name left out.
        """
        arguments = [str(word) for word in words]
        entry = {"path": arguments[0], "args": arguments}
        if env is not None:
            entry["env"] = [f"{key}={value}" for key, value in env.items()]
        self.config.setdefault("hooks", {}).setdefault(stage, []).append(entry)

    def annotate(self, key: str, value: str) -> None:
        """Add an annotation."""
        self.config.setdefault("annotations", {})[key] = value

    def words(self, *words: str | Path) -> list[str]:
        """Return the command line of the runtime."""
        return [str(self.runtime), "--root", str(self.state), *map(str, words)]

    def shell(self, name: str) -> Shell:
        """Run the bundle with a shell as its process."""
        self._write(["sh"])
        return Shell(self.words("run", "--bundle", self.directory, name))

    def run(self, name: str, *process: str, check: bool = True) -> str:
        """Run the bundle to its end; return what it and the runtime printed."""
        self._write(list(process))
        run = self.words("run", "--bundle", self.directory, name)
        done = command(*run, check=check)
        return done.stdout + done.stderr

    def pid(self, name: str) -> int:
        """Return the process id of a running container."""
        return int(json.loads(command(*self.words("state", name)).stdout)["pid"])

    def _write(self, process: Sequence[str]) -> None:
        self.config["process"]["args"] = list(process)
        (self.directory / "config.json").write_text(json.dumps(self.config))


@contextmanager
def bundle_for(runtime: str, rootfs: Path) -> Iterator[Bundle]:
    """A bundle for runc or crun on a private view of `rootfs`, inside the block."""
    with workspace("bundle") as directory:
        bundle = Bundle(runtime_path(runtime, directory), directory, directory / "state")
        command("runc", "spec", "--bundle", directory)
        bundle.config = json.loads((directory / "config.json").read_text())
        bundle.config["root"] = {"path": "merged", "readonly": False}
        bundle.config["process"]["terminal"] = False
        # Raising a limit takes CAP_SYS_RESOURCE, which root does not have everywhere.
        bundle.config["process"].pop("rlimits", None)
        with overlay(rootfs, directory):
            try:
                yield bundle
            finally:
                bundle_state = directory / "state"
                names = (
                    [entry.name for entry in bundle_state.iterdir()]
                    if bundle_state.exists()
                    else []
                )
                for name in names:
                    command(*bundle.words("delete", "--force", name), check=False)
