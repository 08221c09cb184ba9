"""Having the volumes of a container of `fusevol run` served.

Those that have a name are served by `fusevol serve`; those that are a path by a server of their
own, so that they need no daemon.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import time
from typing import Final

from fusevol.binding.bind import open_subpath
from fusevol.containers import cgroup
from fusevol.containers.state import Container, all_containers
from fusevol.errors import FusevolError
from fusevol.linux.mountinfo import is_below, mounts
from fusevol.linux.mounts import MNT_DETACH, umount
from fusevol.mounts import registry
from fusevol.options.binding import Binding
from fusevol.options.config import MountConfig, log_directory
from fusevol.processes import starting
from fusevol.runtime.root import Bind
from fusevol.server import store

_END_S: Final = 10.0
_POLL_S: Final = 0.002
_NAME_MAX_BYTES: Final = 255 - len(".log")
_DIGITS: Final = 16


def clean_up_abandoned() -> None:
    """Clean up after containers whose monitor and caller were killed."""
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
    if container.init is not None and container.is_abandoned:
        container.init.signal(signal.SIGKILL)
    directory = _directory(container)
    deadline = time.monotonic() + _END_S
    while not cgroup.remove(container.id) or _is_mounted_below(directory):
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)
    shutil.rmtree(directory, ignore_errors=True)
    if container.remove_at_end:
        container.remove()
    elif container.is_abandoned:
        container.status = 128 + signal.SIGKILL
        with contextlib.suppress(FileNotFoundError):
            container.save()


def _is_mounted_below(directory: str) -> bool:
    """Tell whether anything is; take away what nobody looks after."""
    found = [mount for mount in mounts() if is_below(mount.mountpoint, directory)]
    for mount in found:
        served = registry.get(mount.mountpoint)
        if served is not None and served.is_dead:
            umount(mount.mountpoint, MNT_DETACH)
            registry.remove(mount.mountpoint)
    return bool(found)


def _end_servers(servers: "dict[str, subprocess.Popen[bytes]]") -> None:
    """End the servers of volumes, at once if they can; wait for the end of all."""
    for mountpoint in servers:
        _signal_keeper(mountpoint, signal.SIGTERM)
    for mountpoint, process in servers.items():
        # What uses the mount from elsewhere has its time to finish; a second request does not wait.
        for number in (signal.SIGTERM, signal.SIGKILL):
            if _has_ended(mountpoint):
                break
            _signal_keeper(mountpoint, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)


def _signal_keeper(mountpoint: str, number: signal.Signals) -> None:
    served = registry.get(mountpoint)
    if served is not None:
        served.keeper.signal(number)


def _has_ended(mountpoint: str) -> bool:
    deadline = time.monotonic() + _END_S
    while (served := registry.get(mountpoint)) is not None and served.keeper.runs():
        # A mount namespace that was made meanwhile may have a copy of the mount, which goes with
        # the mount point.
        store.remove_mountpoint(mountpoint)
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _directory(container: Container) -> str:
    """Return where volumes that are served for this container alone are mounted."""
    return os.path.join(registry.runtime_directory(), "runs", container.id)


class ServedVolumes:
    """Has the volumes of one container served. Used by its monitor only."""

    def __init__(self, container: Container) -> None:
        """Prepare."""
        self._container = container
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._referred: list[str] = []
        self._logs: set[str] = set()
        self._directory = _directory(container)

    def obtain(self) -> list[Bind]:
        """Have all volumes served; return copies of their mounts.

        Raises:
            FusevolError: one cannot be served.
        """
        binds: list[Bind] = []
        try:
            for binding in self._container.bindings:
                binds.append(self._obtain(binding))  # noqa: PERF401  # what was obtained counts
        except BaseException:
            # A server whose mount is held does not end, and `release` waits for its end.
            for bind in binds:
                os.close(bind.tree_fd)
            raise
        return binds

    def release(self) -> None:
        """End the servers and give the references back; the container has ended."""
        _end_servers(self._servers)
        for number in range(len(self._servers)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(registry.messages_path(os.path.join(self._directory, str(number))))
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

    def _obtain(self, binding: Binding) -> Bind:
        if binding.volume.startswith("/"):
            mountpoint = self._serve(binding)
        else:
            mountpoint = self._refer(binding)
        fd = open_subpath(mountpoint, binding.subpath)
        try:
            is_file = not stat.S_ISDIR(os.stat(f"/proc/self/fd/{fd}").st_mode)
        except OSError as error:
            os.close(fd)
            raise FusevolError(f"{mountpoint} does not answer: {error.strerror}") from None
        return Bind(fd, binding.destination, binding.read_only, is_file)

    def _refer(self, binding: Binding) -> str:
        from fusevol.server.control import Client

        with Client() as daemon:
            name = binding.volume or daemon.create("", {}).name
            state = daemon.mount(name, self._container.id, os.getpid())
            self._referred.append(name)
            return state.mountpoint

    def _serve(self, binding: Binding) -> str:
        """Serve a path; the server ends with this process."""
        config = self._config(binding)
        os.makedirs(os.path.dirname(config.mountpoint), mode=0o700, exist_ok=True)
        if os.path.isfile(config.source):
            with open(config.mountpoint, "x"):
                pass
        else:
            os.mkdir(config.mountpoint, 0o000)
        messages = registry.messages_path(config.mountpoint)
        self._servers[config.mountpoint] = starting.start(
            config, messages, owner=os.getpid(), is_name_shared=True
        )
        return config.mountpoint

    def _config(self, binding: Binding) -> MountConfig:
        return MountConfig(
            source=os.path.realpath(binding.volume),
            mountpoint=os.path.join(self._directory, str(len(self._servers))),
            name=binding.volume,
            log=self._log(binding.destination),
        )

    def _log(self, destination: str) -> str:
        """Return the log of the volume at a place: it has one of its own."""
        place = destination.strip("/").replace("/", "-")
        name = f"{self._container.name}-{place}"
        if name in self._logs or len(os.fsencode(name)) > _NAME_MAX_BYTES:
            # Such as that of /a-b, beside /a/b.
            digest = hashlib.sha256(os.fsencode(destination)).hexdigest()
            name = f"{self._container.name}-{digest[:_DIGITS]}"
        self._logs.add(name)
        return os.path.join(log_directory(), f"{name}.log")
