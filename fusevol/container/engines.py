"""Asking engines about their containers: which process, which id, which name.

Docker is asked through its socket (DOCKER_HOST, if that is a Unix socket), Podman through its
command, which heeds CONTAINERS_CONF and CONTAINERS_STORAGE_CONF. Neither is waited for long.
"""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from fusevol.accesslog.container import container_id
from fusevol.container.state import Container, Process, all_containers, find_container
from fusevol.errors import FusevolError, NotFoundError, UsageError
from fusevol.linux.process import start_ticks

_DOCKER_SOCKET: Final = "/var/run/docker.sock"
_ASK_S: Final = 10.0
_NAME_S: Final = 1.0
_ID: Final = re.compile(r"[0-9a-f]{64}")


class Target(NamedTuple):
    """A running container, or another process with a root of its own.

    Attributes:
        word: what it was called by.
        id: full id of the container; for a process outside of any, made of its number.
        name: with the engine; the word itself if it has none.
        process: its first process, as the host sees it.
    """

    word: str
    id: str
    name: str
    process: Process


def find_target(word: str) -> Target:
    """Return what `docker:NAME`, `podman:NAME`, `pid:N` or the name of an own container means.

    Raises:
        NotFoundError: there is no such container, or its engine does not answer.
        FusevolError: it is not running.
    """
    engine, colon, name = word.partition(":")
    if not colon:
        return _own(word)
    if not name:
        raise UsageError(f"{word!r}: the name of a container is missing")
    if engine == "docker":
        return _of_engine(word, docker_container(name))
    if engine == "podman":
        return _of_engine(word, podman_container(name))
    if engine == "pid":
        return _of_process(word, name)
    raise UsageError(
        f"{word!r}: unknown engine {engine!r}; use docker:NAME, podman:NAME, pid:N or the name of "
        f"a container of `fusevol run`"
    )


def docker_container(name: str, timeout_s: float = _ASK_S) -> dict[str, Any]:
    """Return what Docker knows about a container (Docker Engine API, ContainerInspect).

    Raises:
        NotFoundError: there is none, or Docker does not answer.
    """
    connection = _DockerConnection(timeout_s)
    try:
        connection.request("GET", f"/containers/{quote(name, safe='')}/json")
        response = connection.getresponse()
        data = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NotFoundError(
            f"Docker does not answer at {connection.path}: {error}; start it, or name its socket "
            f"by DOCKER_HOST=unix:///..."
        ) from None
    finally:
        connection.close()
    if response.status != 200:
        raise NotFoundError(f"Docker has no container {name}")
    return dict(json.loads(data))


def podman_container(name: str, timeout_s: float = _ASK_S) -> dict[str, Any]:
    """Return what Podman knows about a container (podman-inspect(1)).

    Raises:
        NotFoundError: there is none, or no Podman.
    """
    program = shutil.which("podman")
    if program is None:
        raise NotFoundError("podman is not installed")
    try:
        done = subprocess.run(
            [program, "container", "inspect", "--", name],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NotFoundError(f"podman did not answer within {timeout_s:g} s") from None
    if done.returncode:
        raise NotFoundError(f"Podman has no container {name}")
    return dict(json.loads(done.stdout)[0])


class ContainerNames:
    """Names of containers, each asked for once.

    An engine that is not there, or takes too long, is not asked again.
    """

    def __init__(self) -> None:
        self._names: dict[str, str | None] = {}
        self._engines = [docker_container, podman_container]

    def name(self, container: str) -> str | None:
        """Return the name of a container by its full id; None if no engine knows it."""
        if not _ID.fullmatch(container):
            return None
        if container not in self._names:
            self._names[container] = self._look_up(container)
        return self._names[container]

    def id(self, name: str) -> str | None:
        """Return the full id of a container by its name; None if no engine knows it."""
        for own in _own_containers():
            if own.name == name:
                return own.id
        for found in self._ask(name):
            return str(found["Id"])
        return None

    def _look_up(self, container: str) -> str | None:
        for own in _own_containers():
            if own.id == container:
                return own.name
        for found in self._ask(container):
            return str(found["Name"]).lstrip("/")
        return None

    def _ask(self, word: str) -> list[dict[str, Any]]:
        for engine in list(self._engines):
            try:
                return [engine(word, _NAME_S)]
            except NotFoundError as error:
                if "has no container" not in str(error):
                    self._engines.remove(engine)
        return []


class _DockerConnection(http.client.HTTPConnection):
    def __init__(self, timeout_s: float) -> None:
        super().__init__("docker", timeout=timeout_s)
        host = os.environ.get("DOCKER_HOST", "")
        self.path = host.removeprefix("unix://") if host.startswith("unix://") else _DOCKER_SOCKET

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def _of_engine(word: str, found: dict[str, Any]) -> Target:
    name, pid = str(found["Name"]).lstrip("/"), int(found["State"]["Pid"])
    if pid <= 0:
        raise FusevolError(f"container {name} is not running; start it first")
    return Target(word, str(found["Id"]), name, Process(pid, start_ticks(pid)))


def _own_containers() -> list[Container]:
    """Return the containers of `fusevol run`; none if this user may not see them."""
    try:
        return all_containers()
    except OSError:
        return []


def _own(word: str) -> Target:
    container = find_container(word)
    if container.init is None or not container.is_running:
        raise FusevolError(f"container {container.name} has ended")
    return Target(word, container.id, container.name, container.init)


def _of_process(word: str, number: str) -> Target:
    if not number.isdecimal():
        raise UsageError(f"{word!r}: {number!r} is no process id")
    pid = int(number)
    ticks = start_ticks(pid)
    if not ticks:
        raise NotFoundError(f"there is no process {pid}")
    try:
        with open(f"/proc/{pid}/cgroup", errors="surrogateescape") as file:
            found = container_id(file.read())
    except OSError:
        raise NotFoundError(f"there is no process {pid}") from None
    return Target(word, found or f"pid-{pid}-{ticks}", word, Process(pid, ticks))
