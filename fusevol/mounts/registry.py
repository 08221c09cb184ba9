"""Which mounts there are: one small file each in the runtime directory.

The directory belongs to the user who mounts (root: /run/fusevol) and is readable by that user
alone. A file is written when its mount is served and removed when it ends; one whose daemon died
without removing it is recognised by the mount table.
"""

import contextlib
import hashlib
import os
import signal
import stat
from typing import Final
from urllib.parse import quote

import msgspec

from fusevol.errors import NotPermittedError
from fusevol.linux.files import replace
from fusevol.linux.mountinfo import Mount, mount_at, mounts
from fusevol.linux.process import Process, own_pid_namespace
from fusevol.mounts.encoding import decode, encode
from fusevol.options import config

FSTYPE: Final = "fuse.fusevol"
KEEPER: Final = "fusevol.processes.keeper"
"""The module that keepers run, and workers, which are forks of them."""
_EARLIER_KEEPER: Final = b"fusevol.daemon.keeper"
"""The module that they ran when entries did not identify processes."""
RELOAD: Final = signal.SIGUSR1
"""What a keeper takes for a request to go on by the code and the options that are wanted now."""
_NAME_MAX: Final = 255
_LONGEST_ENDING: Final = ".messages.4194304"
"""That of a new file, with the largest process id (proc_sys_kernel(5), pid_max)."""


class MountEntry(msgspec.Struct):
    """A mount that is served.

    Attributes:
        device: st_dev of the mount; distinguishes it from any other at the same mount point.
        pid: the keeper; worker: the process that serves, 0 while there is none. `keeper` and
            `server` are these very processes, which the numbers alone may not be any more.
        restarts: how often a worker was succeeded.
        message: what stands in the way, if anything does.
        agent_trouble: why the log has no agent, though it should; "" if all is well.
        device_fd, state_fd: /dev/fuse and the recovery state in the keeper; alive_fd: a pipe that
            ends when nobody keeps the mount any more.
        flags: flags of mount(2) that the mount has because its source has them.
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
    agent_trouble: str = ""
    device_fd: int = -1
    state_fd: int = -1
    alive_fd: int = -1
    flags: int = 0
    keeper_start: int = 0
    worker_start: int = 0
    pid_namespace: int = 0

    @property
    def keeper(self) -> Process:
        """The process that keeps the mount."""
        return Process(self.pid, self.keeper_start, self.pid_namespace)

    @property
    def server(self) -> Process:
        """The process that serves it."""
        return Process(self.worker, self.worker_start, self.pid_namespace)

    @property
    def is_kept(self) -> bool:
        """Whether a process runs that keeps it, or is about to."""
        return self.keeper.runs() or self.server.runs()

    @property
    def is_dead(self) -> bool:
        """Whether nobody keeps it; False if its processes cannot be seen from here."""
        return not self.is_kept and self.pid_namespace in (0, own_pid_namespace())


def runtime_directory(*, make: bool = True) -> str:
    """Return the runtime directory, made with mode 0700 if it is missing and `make`.

    Raises:
        NotPermittedError: it belongs to somebody else.
    """
    path = config.runtime_directory()
    if make:
        os.makedirs(path, mode=0o700, exist_ok=True)
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return path
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise NotPermittedError(f"runtime directory {path} belongs to another user; remove it")
    return path


def resolved(mountpoint: str) -> str:
    """Return the absolute path without asking the mount itself, which may be dead."""
    path = os.path.abspath(mountpoint)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def file_name(mountpoint: str) -> str:
    """Return the name, without ending, of the files that belong to a mount point."""
    name = quote(os.fsencode(mountpoint), safe="")
    if len(name) > _NAME_MAX - len(_LONGEST_ENDING):
        name = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()
    return name


def messages_path(mountpoint: str) -> str:
    """Return the file that gets what the daemon of a mount says when it runs in background."""
    return _file_about(mountpoint, ".messages")


def write(served: MountEntry) -> None:
    """Enter a mount; replaces an older entry of the same mount point atomically.

    When its processes started is filled in.
    """
    runtime_directory()
    keeper, worker = Process.of(served.pid), Process.of(served.worker)
    entry = msgspec.structs.replace(
        served,
        keeper_start=keeper.start_ticks,
        worker_start=worker.start_ticks,
        pid_namespace=keeper.pid_namespace,
    )
    replace(_path(served.mountpoint), encode(entry))


def want(mountpoint: str, start: bytes) -> None:
    """Leave a description for the keeper of a mount to continue with when it reloads."""
    runtime_directory()
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


def remove(mountpoint: str, keeper: int = 0) -> None:
    """Remove the entry of a mount, if there is one.

    Args:
        keeper: only if it is that of the mount that this process kept; 0 for any. Another may have
            been made at the same place since.
    """
    if keeper and (served := get(mountpoint)) is not None and served.pid != keeper:
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(mountpoint))


def get(mountpoint: str) -> MountEntry | None:
    """Return the entry of a mount point; None if there is none or it cannot be read."""
    return _read(_path(mountpoint))


def all_served() -> list[MountEntry]:
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
        elif served.is_dead:
            remove(served.mountpoint)
    return sorted(found, key=lambda served: served.mountpoint)


def served_elsewhere() -> list[MountEntry]:
    """Return the entries of mounts that somebody keeps and that are not at their places here."""
    found = [one for one in _entries() if one.is_kept and not is_mounted(one)]
    return sorted(found, key=lambda served: served.mountpoint)


def _entries() -> list[MountEntry]:
    directory = runtime_directory()
    names = [name for name in os.listdir(directory) if name.endswith(".json")]
    return [one for name in names if (one := _read(os.path.join(directory, name))) is not None]


def _read(path: str) -> MountEntry | None:
    try:
        with open(path, "rb") as file:
            served: MountEntry = decode(file.read(), MountEntry)
    except (OSError, msgspec.DecodeError):
        return None
    if not served.pid_namespace:
        _identify(served)
    return served


def _identify(served: MountEntry) -> None:
    """Identify the processes of an entry of an earlier version by their command lines."""
    for pid, start in ((served.pid, "keeper_start"), (served.worker, "worker_start")):
        process = Process.of(pid)
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if _EARLIER_KEEPER in file.read().split(b"\0"):
                setattr(served, start, process.start_ticks)


def open_state(served: MountEntry) -> int:
    """Return a descriptor of a mount's recovery state; -1 if nobody has it whom we may ask."""
    for process in (served.keeper, served.server):
        if not process.runs():
            continue  # The keeper has just died, and the worker shares its descriptors.
        path = f"/proc/{process.pid}/fd/{served.state_fd}"
        try:
            # Not to wait, should the number have gone to something else: a FIFO waits for a writer.
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
    return -1


def is_mounted(served: MountEntry) -> bool:
    """Return whether the mount of an entry is the one at its mount point."""
    return _is_of(served, mount_at(served.mountpoint))


def _is_of(served: MountEntry, mount: Mount | None) -> bool:
    return mount is not None and mount.fstype == FSTYPE and mount.device == served.device


def _path(mountpoint: str) -> str:
    return _file_about(mountpoint, ".json")


def _wanted_path(mountpoint: str) -> str:
    return _file_about(mountpoint, ".wanted")


def _file_about(mountpoint: str, ending: str) -> str:
    return os.path.join(runtime_directory(make=False), file_name(mountpoint) + ending)
