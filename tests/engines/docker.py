"""dockerd with a data directory of its own."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tests.engines.machine import (
    command,
    end,
    remove_empty_cgroups,
    traceable,
    unmount_below,
    workspace,
)
from tests.engines.rootfs import tar_of
from tests.served import runs, wait_until

IMAGE: Final = "bb"


class Docker:
    """A running dockerd: no bridge, no packet filter, overlay2.

    It looks for plugins where every dockerd does (/run/docker/plugins).
    """

    def __init__(self, directory: Path, *options: str) -> None:
        """Prepare; `start` starts it.

        Args:
            directory: holds all that it writes.
            options: further ones of dockerd(8).
        """
        self.directory = directory
        self.env = {
            "DOCKER_HOST": f"unix://{directory}/docker.sock",
            "DOCKER_CONFIG": str(directory / "client"),
        }
        self._options = options
        self._runtime = traceable("runc", directory)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of dockerd."""
        assert self._process
        return self._process.pid

    def start(self, *options: str) -> None:
        """Start dockerd, with further options this time, and wait until it answers."""
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        with (self.directory / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "dockerd", "--data-root", self.directory / "data",
                    "--exec-root", self.directory / "exec", "--pidfile", self.directory / "pid",
                    "--host", self.env["DOCKER_HOST"], "--storage-driver", "overlay2",
                    "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false",
                    "--userland-proxy=false", "--add-runtime", f"traceable={self._runtime}",
                    "--default-runtime=traceable", *self._options, *options,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "PATH": path},
            )  # fmt: skip
        wait_until(self._answers, f"dockerd, see {self.directory}/dockerd.log")

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.log()
        return command("docker", "version", env=self.env, check=False).returncode == 0

    def log(self) -> str:
        """Return what dockerd said so far."""
        return (self.directory / "dockerd.log").read_text(errors="replace")

    def stop(self) -> None:
        """End dockerd as a service manager does: SIGTERM, then wait."""
        assert self._process
        ended = end(self._process.pid)
        self._process.wait()
        assert ended, f"dockerd did not end: {self.log()[-2000:]}"

    def kill(self) -> None:
        """End dockerd by SIGKILL, and wait for the containerd that goes with it."""
        assert self._process
        pid_file = self.directory / "exec/containerd/containerd.pid"
        containerd = int(pid_file.read_text())
        end(self._process.pid, signal.SIGKILL)
        self._process.wait()
        wait_until(lambda: not runs(containerd), "end of dockerd's containerd")
        # As long as nobody has waited for it, dockerd would take it for running.
        pid_file.unlink()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Remove all containers and end dockerd."""
        if self._process is None:
            return
        if self._process.poll() is not None:
            self.start()
        if ids := self.cli("ps", "--all", "--quiet").split():
            self.cli("rm", "--force", "--volumes", *ids)
        self.stop()
        # It binds its data directory on itself, and one that was killed leaves that.
        unmount_below(self.directory)

    def cli(self, *words: str | Path, check: bool = True, input: bytes | None = None) -> str:
        """Run the docker command; return what it printed, without surrounding space."""
        return command("docker", *words, env=self.env, check=check, input=input).stdout.strip()

    def refused(self, *words: str | Path) -> str:
        """Run the docker command, which has to fail; return what it said on stderr."""
        done = command("docker", *words, env=self.env, check=False)
        assert done.returncode != 0, f"{words} succeeded: {done.stdout}"
        return done.stderr.strip()

    def run(self, *words: str | Path) -> str:
        """`docker run` without a network: options, image, command."""
        return self.cli("run", "--network=none", *words)

    def inspect(self, container: str) -> dict[str, Any]:
        """Return what Docker knows about a container."""
        return dict(json.loads(self.cli("container", "inspect", container))[0])


@contextmanager
def docker_daemon(rootfs: Path, *options: str) -> Iterator[Docker]:
    """A dockerd that has the image `bb`, inside the block."""
    with workspace("docker") as directory:
        docker = Docker(directory, *options)
        try:
            docker.start()
            docker.cli("import", "-", IMAGE, input=tar_of(rootfs))
            yield docker
        except BaseException:
            with suppress(AssertionError):
                docker.close()
            raise
        docker.close()
    remove_empty_cgroups("docker")
