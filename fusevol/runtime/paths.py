"""Serving paths of the host for containers, each by a mount of its own that ends with a process.

    RUNTIME/runs/ID/NUMBER     of the container ID of `fusevol run`
    RUNTIME/attached/NAME      attached to a running container

A mount of its own needs no daemon.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Final

from fusevol.linux.mountinfo import is_below, mounts
from fusevol.linux.mounts import MNT_DETACH, umount
from fusevol.mounts import registry
from fusevol.options.config import MountConfig, log_directory
from fusevol.processes import starting
from fusevol.server import store

_END_S: Final = 10.0
_FREE_S: Final = 2.0
_POLL_S: Final = 0.002
_NAME_MAX_BYTES: Final = 255 - len(".log")
_DIGITS: Final = 16
_ATTACHED: Final = "attached"


def serve(
    path: str, mountpoint: str, container: str, destination: str, owner: int
) -> "subprocess.Popen[bytes]":
    """Serve a path of the host; return the keeper of the mount.

    Args:
        path: directory or file.
        mountpoint: to be made.
        container: name of the container, for the name of the log.
        destination: where it will appear in the container.
        owner: process with which the mount ends.

    Raises:
        FusevolError: it cannot be served, and why.
    """
    config = MountConfig(
        source=os.path.realpath(path),
        mountpoint=mountpoint,
        name=path,
        log=_log(container, destination),
    )
    os.makedirs(os.path.dirname(mountpoint), mode=0o700, exist_ok=True)
    if os.path.isfile(config.source):
        with open(mountpoint, "x"):
            pass
    else:
        os.mkdir(mountpoint, 0o000)
    return starting.start(
        config, registry.messages_path(mountpoint), owner=owner, is_name_shared=True
    )


def serve_attached(path: str, container: str, destination: str, owner: int) -> str:
    """Serve a path that is to be attached to a running container; return its mount point.

    Args:
        path, container, destination, owner: see `serve`.

    Raises:
        FusevolError: it cannot be served, and why.
    """
    clean_up_attached()
    os.makedirs(_attached_directory(), mode=0o700, exist_ok=True)
    mountpoint = os.path.join(_attached_directory(), secrets.token_hex(16))
    with _locked(fcntl.LOCK_SH):
        try:
            serve(path, mountpoint, container, destination, owner)
        except BaseException:
            _forget(mountpoint)
            raise
    return mountpoint


def end(mountpoints: "dict[str, subprocess.Popen[bytes] | None]") -> None:
    """End mounts, at once if that can be; wait for the end of all, and remove their mount points.

    Args:
        mountpoints: each with its keeper, if that is a child of this process.
    """
    for mountpoint in mountpoints:
        _signal_keeper(mountpoint, signal.SIGTERM)
    for mountpoint, process in mountpoints.items():
        # What uses the mount from elsewhere has its time to finish; a second request does not wait.
        for number in (signal.SIGTERM, signal.SIGKILL):
            if _has_ended(mountpoint):
                break
            _signal_keeper(mountpoint, number)
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
        _unmount_dead(mountpoint)
        _wait_until_free(mountpoint)
        _forget(mountpoint)


def clean_up_attached() -> None:
    """Remove what attached paths have left behind whose containers have ended."""
    directory = _attached_directory()
    # Not while somebody has made a mount point and not mounted there yet, nor without any.
    with contextlib.suppress(FileNotFoundError, BlockingIOError), _locked(fcntl.LOCK_EX):
        unmount_dead(directory)
        for name in os.listdir(directory):
            mountpoint = os.path.join(directory, name)
            served = registry.get(mountpoint)
            if served is None or served.is_dead:
                _forget(mountpoint)


def unmount_dead(directory: str) -> bool:
    """Take away what is mounted in a directory and served by nobody; tell whether anything was."""
    found = [mount for mount in mounts() if is_below(mount.mountpoint, directory)]
    for mount in found:
        _unmount_dead(mount.mountpoint)
    return bool(found)


def _unmount_dead(mountpoint: str) -> None:
    served = registry.get(mountpoint)
    if served is not None and served.is_dead:
        if registry.is_mounted(served):
            umount(mountpoint, MNT_DETACH)
        registry.remove(mountpoint)


def _wait_until_free(mountpoint: str) -> None:
    """Wait, not for long, until nothing is mounted at a mount point, and remove it."""
    deadline = time.monotonic() + _FREE_S
    while not store.remove_mountpoint(mountpoint) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _forget(mountpoint: str) -> None:
    store.remove_mountpoint(mountpoint)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(registry.messages_path(mountpoint))


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


@contextlib.contextmanager
def _locked(how: int) -> Iterator[None]:
    """Hold a lock (flock(2)) of what is attached inside the block; a shared one is waited for."""
    fd = os.open(_attached_directory(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, how if how == fcntl.LOCK_SH else how | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def _attached_directory() -> str:
    return os.path.join(registry.runtime_directory(), _ATTACHED)


def _log(container: str, destination: str) -> str:
    """Return the log of what appears at a place of a container: it has one of its own."""
    place = destination.strip("/").replace("/", "-")
    path = os.path.join(log_directory(), f"{container}-{place}.log")
    too_long = len(os.fsencode(f"{container}-{place}")) > _NAME_MAX_BYTES
    if too_long or any(served.log == path for served in registry.all_served()):
        # Such as that of /a-b, beside /a/b.
        digest = hashlib.sha256(os.fsencode(destination)).hexdigest()
        path = os.path.join(log_directory(), f"{container}-{digest[:_DIGITS]}.log")
    return path
