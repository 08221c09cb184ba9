"""Podman with directories of its own, and the OCI runtimes that it and the tests use."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.engines.machine import command, remove_empty_cgroups, traceable, workspace
from tests.engines.rootfs import tar_of

RUNTIMES: Final = ("crun", "runc")
IMAGE: Final = "localhost/bb:latest"

_CRUN: Final = """\
#!/bin/sh
# crun refuses to work where version 1 and 2 of control groups are mixed. In a mount namespace for
# itself it does not see the second. Made anew for each call, it has all mounts of the host.
exec unshare --mount --propagation slave sh -c '
    if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
    exec {crun} "$@"
' crun "$@"
"""

_CONFIGURATION: Final = """\
[containers]
# Podman's own limits are above those that this machine may allow.
default_ulimits = ["nofile=1000:1000", "nproc=1000:1000"]
netns = "none"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
hooks_dir = ["{directory}/hooks.d"]
# In a file: shared memory would be shared with any other Podman of this machine.
lock_type = "file"

tmp_dir = "{directory}/tmp"

[engine.runtimes]
crun = ["{crun}"]
runc = ["{runc}"]

[engine.volume_plugins]
fusevol = "{plugin}"
"""


_STORAGE: Final = """\
[storage]
driver = "overlay"
graphroot = "{directory}/root"
runroot = "{directory}/run"
"""
"""The same as by options of the command, for `fusevol attach podman:NAME`."""


def runtime_path(name: str, directory: Path) -> Path:
    """Return a program that is runc, or crun able to work on this machine.

    Args:
        directory: where to put it, if it has to be made.
    """
    found = shutil.which(name, path="/usr/bin:/usr/sbin")
    assert found, f"{name} is missing: scripts/setup test"
    if name != "crun":
        return Path(found)
    wrapper = directory / "crun"
    if not wrapper.exists():
        wrapper.write_text(_CRUN.format(crun=found))
        wrapper.chmod(0o755)
    return wrapper


class Podman:
    """Podman with one runtime."""

    def __init__(self, directory: Path, runtime: str, plugin: Path) -> None:
        """Prepare.

        Args:
            directory: holds all that it writes.
            runtime: "crun" or "runc".
            plugin: socket of the volume driver `fusevol`.
        """
        self.directory = directory
        self.runtime = runtime
        self.hooks_directory = directory / "hooks.d"
        self.hooks_directory.mkdir()
        configuration = directory / "containers.conf"
        runtimes = {name: traceable(runtime_path(name, directory), directory) for name in RUNTIMES}
        configuration.write_text(
            _CONFIGURATION.format(directory=directory, plugin=plugin, **runtimes)
        )
        storage = directory / "storage.conf"
        storage.write_text(_STORAGE.format(directory=directory))
        self.env = {
            "CONTAINERS_CONF": str(configuration), "CONTAINERS_STORAGE_CONF": str(storage),
        }  # fmt: skip
        self.words = (
            "podman", "--root", str(directory / "root"), "--runroot", str(directory / "run"),
            "--tmpdir", str(directory / "tmp"), "--storage-driver", "overlay", "--runtime", runtime,
        )  # fmt: skip

    def cli(self, *words: str | Path, check: bool = True, input: bytes | None = None) -> str:
        """Run the podman command; return what it printed, without surrounding space."""
        done = command(*self.words, *words, env=self.env, check=check, input=input)
        return done.stdout.strip()

    def refused(self, *words: str | Path) -> str:
        """Run the podman command, which has to fail; return what it said on stderr."""
        done = command(*self.words, *words, env=self.env, check=False)
        assert done.returncode != 0, f"{words} succeeded: {done.stdout}"
        return done.stderr.strip()

    def run(self, *words: str | Path) -> str:
        """`podman run` without a network: options, image, command."""
        return self.cli("run", *words)

    def inspect(self, container: str) -> dict[str, Any]:
        """Return what Podman knows about a container."""
        return dict(json.loads(self.cli("container", "inspect", container))[0])

    def close(self) -> None:
        """Remove all containers and volumes."""
        self.cli("rm", "--all", "--force", "--time", "0", "--volumes")
        self.cli("volume", "prune", "--force")


@contextmanager
def podman_with(runtime: str, rootfs: Path, plugin: Path) -> Iterator[Podman]:
    """A Podman that has the image `bb`, inside the block."""
    with workspace(runtime) as directory:
        podman = Podman(directory, runtime, plugin)
        podman.cli("import", "-", IMAGE, input=tar_of(rootfs))
        try:
            yield podman
        finally:
            podman.close()
    remove_empty_cgroups("libpod_parent")
