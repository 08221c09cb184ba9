"""Which processes see a mount: those in another mount namespace may not.

What it finds at the mount point then is the directory below, and what it writes there is in no
source and no log. So a process that requests a mount is checked first, by its own table of mounts.
"""

import os
import socket
import struct
from typing import Final, Protocol

from fusevol.linux.mountinfo import Mount, mount_at, table_of, visible_at
from fusevol.linux.process import comm, has_ended
from fusevol.mounts.registry import FSTYPE, MountEntry

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7))."""
_INT: Final = struct.Struct("i")
_SO_PEERPIDFD: Final = 77
"""Linux 6.5, asm-generic/socket.h."""


class PeerSocket(Protocol):
    """A connected socket, plain or of trio."""

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """Return an option's value, of `size` bytes at most."""


class Asker:
    """The process that has connected to a Unix socket of ours; to be closed.

    Attributes:
        pid: its id; 0 if it has none in our pid namespace.
    """

    def __init__(self, connection: PeerSocket) -> None:
        """Find out who it is."""
        self.pid, _uid, _gid = credentials(connection)
        self._pidfd = _peer_pidfd(connection, self.pid)

    def close(self) -> None:
        """Forget it."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def why_not_seen(self, mountpoint: str) -> str:
        """Return why it does not see the mount of ours at a place; "" if it does.

        One that has no id here, as on the other side of a container that we are in, is believed.
        """
        mount = mount_at(mountpoint)
        if mount is None:
            return "it is no longer mounted"
        if not self.pid:
            return ""
        table = table_of(self.pid)
        if self._pidfd < 0 or has_ended(self._pidfd) or table is None:
            return f"process {self.pid}, which requested it, has exited"
        if _is_same(visible_at(table, mountpoint), mount):
            return ""
        return (
            f"{comm(self.pid) or 'the engine'}, process {self.pid}, does not see this mount, as it "
            f"is in another mount namespace (a snap, a container, MountFlags= or Private*= of its "
            f"unit); run it in the mount namespace of fusevol serve, or let it receive "
            f"mounts (rslave)"
        )


def hidden_from_host(mountpoint: str) -> str:
    """Return a note on a mount of ours that the host does not see; "" if it does.

    The first process stands for the host. In a container it is that of the container.
    """
    mount, table = mount_at(mountpoint), table_of(1)
    # At any place: a process below another root sees it by another path.
    if mount is None or table is None or any(_is_same(other, mount) for other in table):
        return ""
    return (
        f"{mountpoint} is mounted in a private mount namespace: neither the host nor containers "
        f"see it; in a systemd unit, remove Private*=, Protect*= and other settings that create one"
    )


def why_not_here(served: MountEntry) -> str:
    """Return a note on a mount that is still served but is not at its mount point."""
    table = table_of(served.pid)
    mount = None if table is None else visible_at(table, served.mountpoint)
    if mount is not None and (mount.fstype, mount.device) == (FSTYPE, served.device):
        return (
            f"mounted only in another mount namespace, that of process {served.pid}; not visible "
            f"here"
        )
    return "unmounted here, still in use elsewhere; it ends with its last user"


def credentials(connection: PeerSocket) -> tuple[int, int, int]:
    """Return process, user and group id of the peer of a Unix socket (SO_PEERCRED)."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    return pid, uid, gid


def _peer_pidfd(connection: PeerSocket, pid: int) -> int:
    """Return a pidfd of the peer; -1 if it has ended."""
    try:
        (pidfd,) = _INT.unpack(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, _INT.size))
        return int(pidfd)
    except OSError:
        pass
    try:
        return os.pidfd_open(pid) if pid > 0 else -1
    except OSError:
        return -1


def _is_same(found: Mount | None, wanted: Mount) -> bool:
    return found is not None and (found.fstype, found.device) == (FSTYPE, wanted.device)
