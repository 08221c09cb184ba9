"""Having the volumes of a container of `fusevol run` served.

Those that have a name are served by `fusevol serve`; those that are a path by a server of their
own, so that they need no daemon.
"""

import contextlib
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING, Final

from fusevol.binding.bind import open_subpath
from fusevol.containers import cgroup
from fusevol.containers.state import Container, all_containers
from fusevol.errors import FusevolError
from fusevol.mounts import registry
from fusevol.options.binding import Binding
from fusevol.runtime import paths
from fusevol.runtime.hook import Mounted

if TYPE_CHECKING:
    import subprocess

_END_S: Final = 10.0
_DIGITS: Final = 16


def clean_up_abandoned() -> None:
    """Clean up after containers whose monitor and caller were killed, and after attached paths."""
    paths.clean_up_attached()
    for container in all_containers():
        if container.is_abandoned:
            clean_up(container)


def clean_up(container: Container) -> None:
    """Remove what a container whose monitor has ended left behind, but not what it changed.

    Its processes and the servers of its volumes end by themselves, which may take a moment; unless
    they were killed too, or the command freed itself from its monitor by changing its user.
    """
    # How it ended may have been written since it was read.
    try:
        container = Container.load(container.id)
    except FileNotFoundError:
        return
    directory = run_directory(container)
    deadline = time.monotonic() + _END_S
    while _is_left(container, directory):
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)
    for path in (directory, os.path.join(states_directory(), container.id)):
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(console_path(container))
    if container.remove_at_end:
        container.remove()
    elif container.is_abandoned:
        container.status = 128 + signal.SIGKILL
        with contextlib.suppress(FileNotFoundError):
            container.save()


def _is_left(container: Container, directory: str) -> bool:
    """Return whether a process or a mount of the container is left; end what nobody looks after."""
    if container.is_abandoned:
        # The control group may be the runtime's still to make, or have been taken away.
        if container.init is not None:
            container.init.signal(signal.SIGKILL)
        cgroup.kill(container.id)
    return not cgroup.remove(container.id) or paths.unmount_dead(directory)


def run_directory(container: Container) -> str:
    """Return where volumes that are served for this container alone are mounted."""
    return os.path.join(registry.runtime_directory(), "runs", container.id)


def console_path(container: Container) -> str:
    """Return the socket that gets a container's terminal; short, as those of sockets have to be."""
    return os.path.join(registry.runtime_directory(), f"{container.id[:_DIGITS]}.tty")


def states_directory() -> str:
    """Return where the runtime keeps what it knows of containers."""
    return os.path.join(registry.runtime_directory(), "containers")


class ServedVolumes:
    """Has the volumes of one container served. Used by its monitor only."""

    def __init__(self, container: Container) -> None:
        """Prepare."""
        self._container = container
        self._servers: dict[str, subprocess.Popen[bytes] | None] = {}
        self._referred: list[str] = []
        self._directory = run_directory(container)

    def obtain(self) -> list[Mounted]:
        """Have all volumes served; return where they are mounted.

        Raises:
            FusevolError: one cannot be served.
        """
        return [self._obtain(binding) for binding in self._container.bindings]

    def release(self) -> None:
        """End the servers and give the references back; the container has ended."""
        paths.end(self._servers)
        shutil.rmtree(self._directory, ignore_errors=True)
        if not self._referred:
            return
        from fusevol.server.control import Client

        try:
            with Client() as daemon:
                for name in self._referred:
                    daemon.unmount(name, self._container.id)
        except FusevolError:
            # The daemon is away; it finds out by itself when it is back that we have ended.
            return

    def _obtain(self, binding: Binding) -> Mounted:
        if binding.volume.startswith("/"):
            mountpoint = self._serve(binding)
        else:
            mountpoint = self._refer(binding)
        # What is missing is reported before the runtime is called.
        os.close(open_subpath(mountpoint, binding.subpath))
        return Mounted(mountpoint, binding.subpath, binding.destination, binding.read_only)

    def _refer(self, binding: Binding) -> str:
        from fusevol.server.control import Client

        with Client() as daemon:
            name = binding.volume or daemon.create("", {}).name
            state = daemon.mount(name, self._container.id, os.getpid())
            self._referred.append(name)
            return state.mountpoint

    def _serve(self, binding: Binding) -> str:
        """Serve a path; the server ends with this process."""
        mountpoint = os.path.join(self._directory, str(len(self._servers)))
        self._servers[mountpoint] = paths.serve(
            binding.volume, mountpoint, self._container.name, binding.destination, os.getpid()
        )
        return mountpoint
