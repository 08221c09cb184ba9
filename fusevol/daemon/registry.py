"""Which mounts there are: one small file each in the runtime directory.

The directory belongs to the user who mounts (root: /run/fusevol) and is readable by that user
alone. A file is written when its mount is served and removed when it ends; one whose daemon died
without removing it is recognised by the mount table.
"""

import hashlib
import os
import signal
import stat
from typing import Final
from urllib.parse import quote

import msgspec

from fusevol import config
from fusevol.daemon.encoding import decode, encode
from fusevol.errors import NotPermittedError
from fusevol.linux.files import replace
from fusevol.linux.mountinfo import Mount, mount_at, mounts

FSTYPE: Final = "fuse.fusevol"
KEEPER: Final = "fusevol.daemon.keeper"
"""The module that keepers run, and workers, which are forks of them."""
RELOAD: Final = signal.SIGUSR1
"""What a keeper takes for a request to go on by the code and the options that are wanted now."""
_NAME_MAX: Final = 255


class Served(msgspec.Struct):
    """A mount that is served.

    Attributes:
        device: st_dev of the mount; tells it from any other at the same mount point.
        pid: the keeper; worker: the process that serves, 0 while there is none.
        restarts: how often a worker was succeeded.
        message: what stands in the way, if anything does.
        device_fd, state_fd: /dev/fuse and the recovery state in the keeper; alive_fd: a pipe that
            ends when nobody keeps the mount any more.
    """

    mountpoint: str
    source: str
    name: str
    log: str
    level: str
    device: int
    pid: int
    worker: int
    restarts: int = 0
    message: str = ""
    device_fd: int = -1
    state_fd: int = -1
    alive_fd: int = -1


def runtime_directory() -> str:
    """Return the runtime directory, made with mode 0700 if it is missing.

    Raises:
        NotPermittedError: it belongs to somebody else.
    """
    path = config.runtime_directory()
    os.makedirs(path, mode=0o700, exist_ok=True)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise NotPermittedError(f"runtime directory {path} belongs to somebody else; remove it")
    return path


def resolved(mountpoint: str) -> str:
    """Return the absolute path without asking the mount itself, which may be dead."""
    path = os.path.abspath(mountpoint)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def file_name(mountpoint: str) -> str:
    """Return the name, without ending, of the files that belong to a mount point."""
    name = quote(os.fsencode(mountpoint), safe="")
    if len(name) > _NAME_MAX - len(".messages"):
        name = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()
    return name


def messages_path(mountpoint: str) -> str:
    """Return the file that gets what the daemon of a mount says when it runs in background."""
    return os.path.join(runtime_directory(), file_name(mountpoint) + ".messages")


def write(served: Served) -> None:
    """Enter a mount; replaces an older entry of the same mount point atomically."""
    replace(_path(served.mountpoint), encode(served))


def want(mountpoint: str, start: bytes) -> None:
    """Leave a description for the keeper of a mount to go on by when it is told to reload."""
    replace(_wanted_path(mountpoint), start)


def take_wanted(mountpoint: str) -> bytes | None:
    """Return, once, what was left for the keeper; None if nothing was."""
    try:
        with open(_wanted_path(mountpoint), "rb") as file:
            start = file.read()
        os.unlink(_wanted_path(mountpoint))
    except FileNotFoundError:
        return None
    return start


def remove(mountpoint: str) -> None:
    """Remove the entry of a mount, if there is one."""
    try:
        os.unlink(_path(mountpoint))
    except FileNotFoundError:
        pass


def get(mountpoint: str) -> Served | None:
    """Return the entry of a mount point; None if there is none or it cannot be read."""
    try:
        with open(_path(mountpoint), "rb") as file:
            served: Served = decode(file.read(), Served)
            return served
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def all_served() -> list[Served]:
    """Return the entries whose mount is there, in the order of their mount points.

    Entries that a killed daemon left behind are removed.
    """
    entries = _entries()
    # Read once for all, and after the entries, which are written when the mount is there.
    mounted = {mount.mountpoint: mount for mount in mounts()}
    found = []
    for served in entries:
        if _is_of(served, mounted.get(served.mountpoint)):
            found.append(served)
        elif not is_ours(served.pid) and not is_ours(served.worker):
            remove(served.mountpoint)
    return sorted(found, key=lambda served: served.mountpoint)


def _entries() -> list[Served]:
    entries = []
    directory = runtime_directory()
    for name in os.listdir(directory):
        if not name.endswith(".json"):
            continue
        try:
            with open(os.path.join(directory, name), "rb") as file:
                entries.append(decode(file.read(), Served))
        except (OSError, msgspec.DecodeError):
            continue
    return entries


def is_mounted(served: Served) -> bool:
    """Tell whether the mount of an entry is the one at its mount point."""
    return _is_of(served, mount_at(served.mountpoint))


def _is_of(served: Served, mount: Mount | None) -> bool:
    return mount is not None and mount.fstype == FSTYPE and mount.device == served.device


def is_ours(pid: int) -> bool:
    """Tell whether a process is a keeper or worker of fusevol, by its command line."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return KEEPER.encode() in file.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal to a keeper or worker; return whether `pid` was one.

    The descriptor makes sure that the process that was looked at is the one that gets the signal,
    which would kill most others.
    """
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_ours(pid):
            return False
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def _path(mountpoint: str) -> str:
    return os.path.join(runtime_directory(), file_name(mountpoint) + ".json")


def _wanted_path(mountpoint: str) -> str:
    return os.path.join(runtime_directory(), file_name(mountpoint) + ".wanted")
