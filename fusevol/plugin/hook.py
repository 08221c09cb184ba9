"""An OCI hook that binds volumes into a container that is being made (runtime-spec, config.md).

As `createContainer` hook it runs in the container's mount namespace, where the host's files can
still be seen but a volume that is mounted only now may not be (crun makes the copy private): so the
copy of the volume's mount is made in the namespace of `fusevol serve`. As `createRuntime` hook it
runs in the runtime's, and enters the container's to bind. Which of the two is seen from the
namespaces, not from what the runtime calls itself.

The reference to a volume ends with the first process of the container.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from fusevol.binding.bind import bind, open_subpath
from fusevol.binding.podman_hooks import ANNOTATION
from fusevol.errors import FusevolError, UsageError
from fusevol.linux.files import descriptor_path
from fusevol.linux.namespaces import CLONE_NEWNS, setns
from fusevol.options.binding import Binding, check_places, parse_binding
from fusevol.server.control import Client

STATE_MAX_BYTES: Final = 1 << 20


class OciState(msgspec.Struct):
    """What a runtime tells a hook (runtime-spec, runtime.md, "State").

    Attributes:
        pid: of the container's first process, in the pid namespace of this hook; crun says 0.
        root: crun's addition: the root file system.
    """

    id: str
    bundle: str
    pid: int = 0
    status: str = ""
    root: str = ""
    annotations: dict[str, str] | None = None


def read_state(data: bytes) -> OciState:
    """Return what a runtime wrote to the hook's standard input; UsageError if it is no state."""
    if len(data) > STATE_MAX_BYTES:
        raise UsageError("the state of the container is too long")
    try:
        state = msgspec.json.decode(data, type=OciState)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"standard input is not the state of a container: {error}; `fusevol hook` is run by "
            f"OCI runtimes"
        ) from None
    if not state.id or not state.bundle.startswith("/"):
        raise UsageError("the state of the container has no id, or no bundle")
    return state


def wanted(state: OciState, words: Sequence[str], allowed: Sequence[str]) -> list[Binding]:
    """Return the volumes of a container: those of the hook's arguments, or of its annotation.

    An image can carry annotations, which Podman hands on as if its user had given them. So one
    reaches volumes only that the host's administrator has allowed, and never a path of the host.

    Args:
        state: the container.
        words: the hook's arguments; if there are any, the annotation does not count.
        allowed: patterns (fnmatch) for names of volumes that annotations may name.

    Raises:
        UsageError: one says nothing that can be meant, or is not allowed.
    """
    said = "" if words else (state.annotations or {}).get(ANNOTATION, "")
    bindings = [parse_binding(word) for word in words or said.split(",") if word]
    for binding in () if words else bindings:
        if not binding.is_named or not any(fnmatchcase(binding.volume, one) for one in allowed):
            raise UsageError(
                f"annotation {ANNOTATION}: {binding.volume or 'a new volume'} is not allowed, as "
                f"an image could request it; allow volumes by name with fusevol hook --allow NAME"
            )
    check_places(bindings)
    return sorted(bindings, key=lambda binding: binding.destination.count("/"))


def bind_volumes(state: OciState, bindings: Sequence[Binding]) -> None:
    """Bind volumes into a container before its root is changed.

    Raises:
        FusevolError: one cannot be bound. None is referred to then.
    """
    first, is_inside = _first_process(state)
    target = _open_namespace("self" if is_inside else first)
    root = _root(state)
    try:
        with Client() as daemon:
            held: list[str] = []
            try:
                for binding in bindings:
                    name = _name(daemon, binding)
                    volume = daemon.mount(name, state.id, first)
                    held.append(name)
                    _bind(binding, volume.mountpoint, daemon.pid, target, root)
            except BaseException:
                for name in held:
                    daemon.unmount(name, state.id)
                raise
    finally:
        os.close(target)


def _name(daemon: Client, binding: Binding) -> str:
    if binding.is_named:
        return binding.volume
    return daemon.create("", {"source": binding.volume} if binding.volume else {}).name


def _bind(binding: Binding, mountpoint: str, daemon: int, target: int, root: str) -> None:
    with _namespace_of(daemon, target):
        tree = open_subpath(mountpoint, binding.subpath)
    try:
        setns(target, CLONE_NEWNS)
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            is_file = not os.path.isdir(descriptor_path(tree))
            bind(tree, root_fd, binding.destination, binding.read_only, is_file)
        finally:
            os.close(root_fd)
    except OSError as error:
        raise FusevolError(f"the container at {root} cannot be entered: {error.strerror}") from None
    finally:
        os.close(tree)


@contextmanager
def _namespace_of(daemon: int, back: int) -> Iterator[None]:
    """Be in the mount namespace of the daemon inside the block, and in `back` afterwards."""
    try:
        namespace = _open_namespace(daemon)
        try:
            setns(namespace, CLONE_NEWNS)
        finally:
            os.close(namespace)
    except OSError as error:
        raise FusevolError(
            f"the mount namespace of fusevol serve (process {daemon}) cannot be entered: "
            f"{error.strerror}; in a user namespace, use the hook as createRuntime"
        ) from None
    try:
        yield
    finally:
        setns(back, CLONE_NEWNS)


def _open_namespace(pid: int | str) -> int:
    return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def _first_process(state: OciState) -> tuple[int, bool]:
    """Return the host's id of the container's first process, and whether we are in its namespace.

    /proc is the host's in both kinds of hooks. A hook that has an id in a further pid namespace
    runs inside of the container, as a child of its first process; the id in the state is none of
    the host's then.
    """
    fields = {}
    with open("/proc/self/status") as file:
        for line in file:
            key, _, value = line.partition(":")
            fields[key] = value.split()
    if len(fields["NSpid"]) > 1 or state.pid <= 0:
        return int(fields["PPid"][0]), True
    try:
        same = os.readlink(f"/proc/{state.pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    except OSError as error:
        raise FusevolError(
            f"the container's process {state.pid} cannot be examined: {error.strerror}"
        ) from None
    return state.pid, same


def _root(state: OciState) -> str:
    path = state.root
    if not path:
        name = os.path.join(state.bundle, "config.json")
        try:
            with open(name, "rb") as file:
                path = json.load(file)["root"]["path"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise FusevolError(f"{name} does not name a root file system: {error}") from None
    return os.path.join(state.bundle, path)
