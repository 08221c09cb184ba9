"""What the tests of the mechanism need of an engine, the same for all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.engines.daemon import Daemon
from tests.engines.docker import IMAGE as DOCKER_IMAGE
from tests.engines.docker import Docker
from tests.engines.machine import TRACER, command
from tests.engines.podman import IMAGE as PODMAN_IMAGE
from tests.engines.podman import Podman
from tests.engines.shell import Shell
from tests.served import Record, fusevol, is_mounted, read_log


@dataclass(frozen=True)
class Volume:
    """A volume that can be bound into containers.

    Attributes:
        word: what stands before the colon of -v.
        mount_point: where it is mounted on the host.
    """

    name: str
    word: str
    mount_point: Path


class Engine(Protocol):
    """Runs containers of the image `bb` with volumes."""

    @property
    def trace(self) -> Path:
        """The directory that gets traces of how containers are made, while it is there."""

    def add_volume(self, name: str, source: Path) -> Volume:
        """Make a volume of a directory or a file."""

    def drop_volume(self, volume: Volume) -> None:
        """Remove a volume that no container uses."""

    def records(self, volume: Volume) -> list[Record]:
        """Return what is in the volume's access log."""

    def run_words(self, name: str, volumes: Sequence[str]) -> list[str]:
        """Return the command line, without the container's command, that keeps stdin open.

        Args:
            volumes: values of -v.
        """

    def environment(self) -> dict[str, str]:
        """Return what `run_words` needs in its environment."""

    def identify(self, name: str) -> tuple[str, int]:
        """Return the full id of a running container and the host's id of its first process."""

    def remove(self, name: str) -> None:
        """Remove a container."""

    def commit(self, name: str, image: str, archive: Path) -> None:
        """Make an image of a running container and write it out as a docker-archive."""

    def run_image(self, image: str, *process: str) -> str:
        """Run a process in a new container of a committed image; return what it printed."""


@dataclass
class Container:
    """A running container whose first process is a shell to talk to."""

    engine: Engine
    name: str
    id: str
    pid: int
    shell: Shell

    def __call__(self, script: str, check: bool = True) -> str:
        """Run a script in the container."""
        return self.shell(script, check)

    def unmount(self, path: str) -> None:
        """Unmount in the container, which may not do that itself."""
        command("nsenter", f"--target={self.pid}", "--mount", "/bin/busybox", "umount", path)


@contextmanager
def container(engine: Engine, name: str, *volumes: str) -> Iterator[Container]:
    """A running container inside the block.

    Args:
        volumes: values of -v.
    """
    words = [*engine.run_words(name, volumes), "sh"]
    try:
        with Shell(words, engine.environment()) as shell:
            yield Container(engine, name, *engine.identify(name), shell)
    finally:
        engine.remove(name)


class _Served:
    """Volumes of `fusevol serve`."""

    daemon: Daemon

    def _volume(self, name: str) -> Volume:
        return Volume(name, name, self.daemon.mount_point(name))

    def records(self, volume: Volume) -> list[Record]:
        return self.daemon.records(volume.name)


class _Bound:
    """Mounts of `fusevol mount`, which engines know nothing of."""

    directory: Path

    def add_volume(self, name: str, source: Path) -> Volume:
        point = self.directory / f"{name}.volume"
        if source.is_file():
            point.touch()
        else:
            point.mkdir()
        fusevol("mount", source, point, "--log", self._log(name))
        return Volume(name, str(point), point)

    def drop_volume(self, volume: Volume) -> None:
        fusevol("unmount", volume.mount_point)
        assert not is_mounted(volume.mount_point)

    def records(self, volume: Volume) -> list[Record]:
        return read_log(self._log(volume.name))

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"


class _Docker:
    docker: Docker

    @property
    def trace(self) -> Path:
        return self.docker.directory / "trace"

    def run_words(self, name: str, volumes: Sequence[str]) -> list[str]:
        words = ["docker", "run", "--interactive", "--network=none", "--name", name]
        return [*words, *(f"--volume={volume}" for volume in volumes), DOCKER_IMAGE]

    def environment(self) -> dict[str, str]:
        return self.docker.env

    def identify(self, name: str) -> tuple[str, int]:
        state = self.docker.inspect(name)
        return state["Id"], state["State"]["Pid"]

    def remove(self, name: str) -> None:
        self.docker.cli("rm", "--force", "--volumes", name)

    def commit(self, name: str, image: str, archive: Path) -> None:
        self.docker.cli("commit", name, image)
        self.docker.cli("save", "--output", archive, image)

    def run_image(self, image: str, *process: str) -> str:
        return self.docker.run("--rm", image, *process)


class _Podman:
    podman: Podman

    @property
    def trace(self) -> Path:
        return self.podman.directory / "trace"

    def run_words(self, name: str, volumes: Sequence[str]) -> list[str]:
        words = [*self.podman.words, "run", "--interactive", "--name", name]
        return [*words, *(f"--volume={volume}" for volume in volumes), PODMAN_IMAGE]

    def environment(self) -> dict[str, str]:
        return self.podman.env

    def identify(self, name: str) -> tuple[str, int]:
        state = self.podman.inspect(name)
        return state["Id"], state["State"]["Pid"]

    def remove(self, name: str) -> None:
        self.podman.cli("rm", "--force", "--time=0", "--volumes", name)

    def commit(self, name: str, image: str, archive: Path) -> None:
        self.podman.cli("commit", name, image)
        self.podman.cli("save", "--output", archive, image)

    def run_image(self, image: str, *process: str) -> str:
        return self.podman.run("--rm", image, *process)


class DockerBind(_Bound, _Docker):
    """Docker with binds of what `fusevol mount` serves."""

    def __init__(self, docker: Docker, directory: Path) -> None:
        self.docker = docker
        self.directory = directory


class PodmanBind(_Bound, _Podman):
    """Podman with binds of what `fusevol mount` serves."""

    def __init__(self, podman: Podman, directory: Path) -> None:
        self.podman = podman
        self.directory = directory


class DockerPlugin(_Served, _Docker):
    """Docker with the volume plugin."""

    def __init__(self, docker: Docker, daemon: Daemon) -> None:
        self.docker = docker
        self.daemon = daemon

    def add_volume(self, name: str, source: Path) -> Volume:
        self.docker.cli("volume", "create", "--driver=fusevol", f"--opt=source={source}", name)
        return self._volume(name)

    def drop_volume(self, volume: Volume) -> None:
        self.docker.cli("volume", "rm", volume.name)


class PodmanPlugin(_Served, _Podman):
    """Podman with the volume plugin."""

    def __init__(self, podman: Podman, daemon: Daemon) -> None:
        self.podman = podman
        self.daemon = daemon

    def add_volume(self, name: str, source: Path) -> Volume:
        self.podman.cli("volume", "create", "--driver=fusevol", f"--opt=source={source}", name)
        return self._volume(name)

    def drop_volume(self, volume: Volume) -> None:
        self.podman.cli("volume", "rm", volume.name)


class Run(_Served):
    """`fusevol run` with volumes of `fusevol serve`."""

    def __init__(self, daemon: Daemon, image: str, directory: Path) -> None:
        """Prepare.

        Args:
            image: `oci:DIR:TAG`.
            directory: where committed images go.
        """
        self.daemon = daemon
        self._image = image
        self._directory = directory

    @property
    def trace(self) -> Path:
        return self._directory.with_name("trace")

    def add_volume(self, name: str, source: Path) -> Volume:
        self.daemon.create(name, source)
        return self._volume(name)

    def drop_volume(self, volume: Volume) -> None:
        self.daemon.cli("volume", "rm", volume.name)

    def run_words(self, name: str, volumes: Sequence[str]) -> list[str]:
        binds = [word for volume in volumes for word in ("-v", volume)]
        tracer = [*TRACER, "-o", str(self.trace / name)] if self.trace.exists() else []
        return [
            *tracer,
            *self.daemon.words("run", "--interactive", "--image", self._image, "--name", name),
            *binds,
            "--",
        ]

    def environment(self) -> dict[str, str]:
        return self.daemon.env

    def identify(self, name: str) -> tuple[str, int]:
        state = self.daemon.container(name)
        return state["id"], state["pid"]

    def remove(self, name: str) -> None:
        self.daemon.cli("rm", "--force", name, check=False)

    def commit(self, name: str, image: str, archive: Path) -> None:
        self.daemon.cli("commit", name, f"oci:{self._directory}:{image}")
        self.daemon.cli("commit", name, f"docker-archive:{archive}")

    def run_image(self, image: str, *process: str) -> str:
        return self.daemon.cli(
            "run", "--rm", "--image", f"oci:{self._directory}:{image}", "--", *process
        )
