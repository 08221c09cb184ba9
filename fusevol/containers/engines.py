"""Asking engines about their containers: which process, which id, which name.

Docker is asked through its socket (DOCKER_HOST, if that is a Unix socket), Podman through its
command, which needs no service and heeds CONTAINERS_CONF and CONTAINERS_STORAGE_CONF. Neither is
waited for long.
"""

import http.client
import json
import os
import shutil
import socket
import subprocess
from typing import Any, Final
from urllib.parse import quote

from fusevol.errors import NotFoundError, UnsupportedError

_DOCKER_SOCKET: Final = "/var/run/docker.sock"
_UNIX: Final = "unix://"
_ASK_S: Final = 10.0


def docker_container(name: str) -> dict[str, Any]:
    """Return what Docker knows about a container (Docker Engine API, ContainerInspect).

    Raises:
        NotFoundError: there is none, or Docker does not answer.
        UnsupportedError: Docker is on another host.
    """
    status, answer = _ask_docker(f"/containers/{quote(name, safe='')}/json", _ASK_S)
    if status != 200:
        raise NotFoundError(f"no Docker container named {name}; `docker ps` lists them")
    return dict(answer)


def docker_names(timeout_s: float) -> dict[str, str]:
    """Return the names of all containers of Docker by their ids (ContainerList).

    Raises:
        NotFoundError: Docker does not answer.
        UnsupportedError: Docker is on another host.
    """
    _status, answer = _ask_docker("/containers/json?all=1", timeout_s)
    # A container that links to this one has a name for it, too: /other/alias.
    return {
        found["Id"]: name[1:]
        for found in answer
        for name in found["Names"] or ()
        if name.count("/") == 1
    }


def podman_container(name: str) -> dict[str, Any]:
    """Return what Podman knows about a container (podman-container-inspect(1)).

    Raises:
        NotFoundError: there is none, or no Podman.
    """
    done = _ask_podman(("container", "inspect", "--", name), _ASK_S)
    if done.returncode:
        raise NotFoundError(f"no Podman container named {name}; `podman ps` lists them")
    return dict(json.loads(done.stdout)[0])


def podman_names(timeout_s: float) -> dict[str, str]:
    """Return the names of all containers of this user's Podman by their ids (podman-ps(1)).

    Raises:
        NotFoundError: there is no Podman, this user never had a container, or it does not answer.
    """
    if os.geteuid() and not os.path.isdir(os.path.expanduser("~/.local/share/containers/storage")):
        # The mere question would set up Podman's directories and namespaces for this user.
        raise NotFoundError("this user has no Podman containers")
    done = _ask_podman(("ps", "--all", "--no-trunc", "--format", "json"), timeout_s)
    if done.returncode:
        raise NotFoundError("podman failed to list its containers; try `podman ps`")
    return {found["Id"]: found["Names"][0] for found in json.loads(done.stdout) if found["Names"]}


def _ask_docker(path: str, timeout_s: float) -> tuple[int, Any]:
    """Return status and answer of a request to Docker."""
    connection = _DockerConnection(timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NotFoundError(
            f"Docker does not answer at {connection.path}: {error}; start it, or set its socket "
            f"with DOCKER_HOST=unix:///..."
        ) from None
    finally:
        connection.close()


def _ask_podman(words: tuple[str, ...], timeout_s: float) -> "subprocess.CompletedProcess[bytes]":
    program = shutil.which("podman")
    if program is None:
        raise NotFoundError("podman is not installed")
    try:
        return subprocess.run(
            [program, *words],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False,
            start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NotFoundError(f"podman did not answer within {timeout_s:g} s") from None


class _DockerConnection(http.client.HTTPConnection):
    def __init__(self, timeout_s: float) -> None:
        super().__init__("docker", timeout=timeout_s)
        host = os.environ.get("DOCKER_HOST") or f"{_UNIX}{_DOCKER_SOCKET}"
        if not host.startswith(_UNIX):
            raise UnsupportedError(
                f"DOCKER_HOST={host} is not a Unix socket; containers of another host cannot be "
                f"reached"
            )
        self.path = host.removeprefix(_UNIX)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)
