"""Which processes use a file system, according to /proc; the file system itself is never asked."""

import os
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from fusevol.linux.mountinfo import mount_tables
from fusevol.linux.process import comm


class MountUser(NamedTuple):
    """A process that uses a file system; `comm` is its name, at most 15 bytes."""

    pid: int
    comm: str


def users(device: int) -> Iterator[MountUser]:
    """Yield the processes, but for this one, that have something on a file system in use.

    That is an open file or directory, the working or root directory, or a mapping, in any mount
    namespace. Processes that are not ours to look at are left out. To read mappings can take as
    long as a call that holds up the process, so call this where that does no harm; a signal that
    kills ends the wait.

    Args:
        device: st_dev of its files.
    """
    places = _Places(device)
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            if _has_open(name, places) or _stands_in(name, places) or _maps(name, device):
                yield MountUser(int(name), comm(int(name)))
        except OSError:
            continue  # it ended, or is not ours to look at


class _Places:
    """Where a file system is mounted: ids of its mounts, and mount points by namespace."""

    def __init__(self, device: int) -> None:
        self.mount_ids: set[bytes] = set()
        self.mountpoints: dict[str, list[str]] = defaultdict(list)
        for table in mount_tables():
            for mount in table.mounts:
                if mount.device == device:
                    self.mount_ids.add(b"%d" % mount.mount_id)
                    self.mountpoints[table.namespace].append(mount.mountpoint)


def _has_open(pid: str, places: _Places) -> bool:
    return any(_mount_id(pid, fd) in places.mount_ids for fd in os.listdir(f"/proc/{pid}/fdinfo"))


def _mount_id(pid: str, fd: str) -> bytes:
    """Return the id of the mount that a descriptor was opened through (proc_pid_fdinfo(5))."""
    try:
        with open(f"/proc/{pid}/fdinfo/{fd}", "rb") as file:
            _, _, rest = file.read().partition(b"mnt_id:")
    except FileNotFoundError:
        return b""  # closed meanwhile
    return rest.split(None, 1)[0] if rest else b""


def _stands_in(pid: str, places: _Places) -> bool:
    # The text of the links: to follow them could ask a file system.
    stands = [os.readlink(f"/proc/{pid}/{link}") + "/" for link in ("cwd", "root")]
    mountpoints = places.mountpoints.get(os.readlink(f"/proc/{pid}/ns/mnt"), ())
    return any(path.startswith(point.rstrip("/") + "/") for path in stands for point in mountpoints)


def _maps(pid: str, device: int) -> bool:
    wanted = b" %02x:%02x " % (os.major(device), os.minor(device))
    with open(f"/proc/{pid}/maps", "rb") as file:
        return wanted in file.read()
