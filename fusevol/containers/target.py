"""Which running container a user means: `docker:NAME`, `podman:NAME`, `pid:N`, or an own one.

A container is known by its first process, distinguished from a later one of the same id by when it
started.
"""

import os
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from fusevol.containers import engines
from fusevol.containers.state import find_container
from fusevol.errors import FusevolError, NotFoundError, UsageError
from fusevol.linux.container_id import container_id
from fusevol.linux.namespaces import namespace_id
from fusevol.linux.process import Process

_ENGINES: Final = {"docker": engines.docker_container, "podman": engines.podman_container}


class RunningContainer(NamedTuple):
    """A running container, or another process with mounts of its own.

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


def find_target(word: str) -> RunningContainer:
    """Return what `docker:NAME`, `podman:NAME`, `pid:N` or the name of an own container means.

    Raises:
        UsageError: it is not valid.
        NotFoundError: there is no such container, or its engine does not answer.
        FusevolError: it is not running.
    """
    kind, colon, name = word.partition(":")
    if not colon:
        return _own(word)
    if not name:
        raise UsageError(f"invalid target {word!r}: missing container name")
    if kind in _ENGINES:
        return _of_engine(word, _ENGINES[kind](name))
    if kind == "pid":
        return _of_process(word, name)
    raise UsageError(
        f"invalid target {word!r}: unknown engine {kind!r}; use docker:NAME, podman:NAME, pid:N or "
        f"the name of a container of `fusevol run`"
    )


def _own(word: str) -> RunningContainer:
    container = find_container(word)
    if container.init is None or not container.is_running:
        raise FusevolError(f"container {container.name} has exited")
    return RunningContainer(word, container.id, container.name, container.init)


def _of_engine(word: str, found: dict[str, Any]) -> RunningContainer:
    full_id, name = str(found["Id"]), str(found["Name"]).lstrip("/")
    pid = int(found["State"]["Pid"])
    process = _process(pid)
    if process is None:
        raise FusevolError(f"container {name} is not running; start it first")
    text = _cgroup(pid)
    if container_id(text) is not None and full_id not in text:
        # The engine has not noticed yet that it ended, and its process id went to another.
        raise FusevolError(f"container {name} has exited")
    return RunningContainer(word, full_id, name, process)


def _of_process(word: str, number: str) -> RunningContainer:
    if not (number.isascii() and number.isdigit()) or len(number) > 10:
        raise UsageError(f"invalid target {word!r}: expected a process id, such as pid:1234")
    process = _process(int(number))
    if process is None:
        raise NotFoundError(f"no process with id {number}")
    first = min(_companions(process), key=lambda one: (one.start_ticks, one.pid))
    found = container_id(_cgroup(process.pid))
    return RunningContainer(word, found or f"pid-{first.pid}-{first.start_ticks}", word, first)


def _companions(process: Process) -> Iterator[Process]:
    """Yield the processes that have the same mounts and the same root directory.

    The oldest of them is the first process of a container, or the next best: what lives longest.
    """
    yield process
    place = _place(process.pid)
    if place is None or place == _place("self"):
        return
    for name in os.listdir("/proc"):
        if name.isdigit() and _place(name) == place and (one := _process(int(name))):
            yield one


def _place(pid: int | str) -> tuple[int, int, int] | None:
    try:
        root = os.stat(f"/proc/{pid}/root")
        return namespace_id(pid, "mnt"), root.st_dev, root.st_ino
    except OSError:
        return None


def _process(pid: int) -> Process | None:
    process = Process.of(pid)
    return process if process.runs() else None


def _cgroup(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cgroup", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
