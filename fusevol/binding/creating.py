"""Binding into a container that an OCI runtime is creating: what a hook has to know and do.

As `createContainer` hook this runs in the container's mount namespace, where the host's files can
still be seen but a mount that was made only now may not be (crun makes the copy private): so the
copy of the volume's mount is made in the namespace of whoever has it. As `createRuntime` hook it
runs in the runtime's, and enters the container's to bind. Which of the two is seen from the
namespaces, not from what the runtime calls itself (runtime-spec, config.md, "POSIX-platform
Hooks").
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import msgspec

from fusevol.binding.bind import bind, open_subpath
from fusevol.binding.owner import host_id_of_root
from fusevol.errors import FusevolError, UsageError
from fusevol.linux.credentials import filesystem_identity, keep_capabilities_across_fsuid
from fusevol.linux.files import descriptor_path
from fusevol.linux.namespaces import CLONE_NEWNS, setns

STATE_MAX_BYTES: Final = 1 << 20


class OciState(msgspec.Struct):
    """The state that a runtime passes to a hook (runtime-spec, runtime.md, "State").

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
    """Return what a runtime wrote to the hook's standard input; UsageError if it is not a state."""
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


class Creation:
    """A container that is being created, before its root is changed.

    Attributes:
        pid: the host's id of its first process.
    """

    def __init__(self, state: OciState) -> None:
        """Look at it; FusevolError if it cannot be. To be closed."""
        self.pid, is_inside = _first_process(state)
        self._namespace = _open_namespace("self" if is_inside else self.pid)
        self._root = _root(state)
        self._owner = [host_id_of_root(self.pid, kind) for kind in ("uid", "gid")]

    def close(self) -> None:
        """Be done with it."""
        os.close(self._namespace)

    def bind(
        self, mountpoint: str, subpath: str, owner: int, destination: str, read_only: bool
    ) -> None:
        """Bind a volume into the container.

        Args:
            mountpoint: of the volume, in the mount namespace of the process `owner`.
            subpath: what of it; empty for all.

        Raises:
            FusevolError: it cannot be bound, and why.
        """
        with _namespace_of(owner, self._namespace):
            tree = open_subpath(mountpoint, subpath)
        try:
            setns(self._namespace, CLONE_NEWNS)
            root_fd = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                is_file = not os.path.isdir(descriptor_path(tree))
                with suppress(PermissionError):
                    keep_capabilities_across_fsuid()
                # What is missing shall belong to the container's root.
                with filesystem_identity(*self._owner):
                    bind(tree, root_fd, destination, read_only, is_file)
            finally:
                os.close(root_fd)
        except OSError as error:
            raise FusevolError(
                f"the container at {self._root} cannot be entered: {error.strerror}"
            ) from None
        finally:
            os.close(tree)


@contextmanager
def _namespace_of(owner: int, back: int) -> Iterator[None]:
    """Be in the mount namespace of a process inside the block, and in `back` afterwards."""
    try:
        namespace = _open_namespace(owner)
        try:
            setns(namespace, CLONE_NEWNS)
        finally:
            os.close(namespace)
    except OSError as error:
        raise FusevolError(
            f"the mount namespace of fusevol (process {owner}) cannot be entered: "
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
