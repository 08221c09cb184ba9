"""Doing something inside of a running container: in its mount namespace, below its root directory.

A child process does that: a process that enters a mount namespace has no threads, and does not come
back. What is in the container is not trusted. The child looks paths up below the container's root
only, reads /proc by a descriptor of the host's, and cannot load a module any more, which could be
one that the container has put there.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import Final, NamedTuple

from fusevol.containers.target import RunningContainer
from fusevol.errors import FusevolError, NotFoundError, NotPermittedError, UnsupportedError
from fusevol.linux.child import in_child
from fusevol.linux.files import open_in_root
from fusevol.linux.mountinfo import Mount, parse
from fusevol.linux.namespaces import CLONE_NEWNS, setns

_LONGEST_S: Final = 30
"""How long the child may take: a file system that the container serves itself could hold it up."""
_CHUNK_BYTES: Final = 1 << 16


class Place(NamedTuple):
    """What a path of a container leads to.

    Attributes:
        path: without symbolic links.
        exists: it is all of what was asked for; else what is there of it.
        mount: that it is on; None if that is unmounted meanwhile.
    """

    path: str
    exists: bool
    mount: Mount | None


class Inside:
    """A container as seen by the child process, which is in it once `enter` was called."""

    def __init__(self, root_fd: int, namespace_fd: int) -> None:
        """Take descriptors of the container's root directory and of its mount namespace."""
        self.root_fd = root_fd
        self._namespace_fd = namespace_fd
        self._proc_fd = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def enter(self) -> None:
        """Go into the container: its mounts, and its root directory as ours."""
        sys.path.clear()
        sys.meta_path.clear()
        setns(self._namespace_fd, CLONE_NEWNS)
        os.fchdir(self.root_fd)
        os.chroot(".")

    def mounts(self) -> list[Mount]:
        """Return the mounts that this process sees now, at the paths where it sees them."""
        return list(parse(self._read("mountinfo")))

    def mount_of(self, fd: int) -> int:
        """Return the id of the mount that a descriptor, O_PATH too, is on (proc_pid_fdinfo(5))."""
        for line in self._read(f"fdinfo/{fd}").splitlines():
            if line.startswith(b"mnt_id:"):
                return int(line.split()[1])
        raise UnsupportedError("this kernel does not report the mount of a descriptor (fdinfo)")

    def locate(self, path: str) -> Place:
        """Return where a path of the container leads to, as far as it exists."""
        there = path
        while (fd := self._open_if_there(there)) is None:
            there = os.path.dirname(there)
        try:
            mount_id = self.mount_of(fd)
            real = os.readlink(f"fd/{fd}", dir_fd=self._proc_fd)
        finally:
            os.close(fd)
        found = [one for one in self.mounts() if one.mount_id == mount_id]
        return Place(real, there == path, found[0] if found else None)

    def open(self, path: str, flags: int = 0) -> int:
        """Return an O_PATH descriptor of a path of the container; OSError as of open(2)."""
        return open_in_root(self.root_fd, path, os.O_PATH | flags)

    def _open_if_there(self, path: str) -> int | None:
        try:
            return self.open(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _read(self, name: str) -> bytes:
        """Read a file of our own /proc directory; the container's does not list us."""
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc_fd)
        try:
            return b"".join(iter(lambda: os.read(fd, _CHUNK_BYTES), b""))
        finally:
            os.close(fd)


def inside(target: RunningContainer, work: Callable[[Inside], bytes]) -> bytes:
    """Have a child process do something in a container; return what `work` returns.

    Args:
        target: the container.
        work: called in the child, outside of the container still.

    Raises:
        FusevolError: the container has ended or cannot be entered; or what `work` raised.
    """
    root_fd, namespace_fd = _open(target)
    try:
        return _in_child(target.word, lambda: work(Inside(root_fd, namespace_fd)))
    finally:
        os.close(root_fd)
        os.close(namespace_fd)


def _open(target: RunningContainer) -> tuple[int, int]:
    """Open root directory and mount namespace; that they belong to the process is certain."""
    pid, opened = target.process.pid, []
    try:
        for name, flags in (("root", os.O_PATH | os.O_DIRECTORY), ("ns/mnt", os.O_RDONLY)):
            opened.append(os.open(f"/proc/{pid}/{name}", flags | os.O_CLOEXEC))
        # Asked afterwards: had it ended, another process with its id could have been opened.
        if target.process.runs():
            return opened[0], opened[1]
    except PermissionError:
        problem: FusevolError = NotPermittedError(
            f"{target.word} cannot be entered: permission denied; this requires root, with all the "
            f"rights that process {pid} has"
        )
    except OSError:
        problem = NotFoundError(f"{target.word} has exited")
    else:
        problem = NotFoundError(f"{target.word} has exited")
    for fd in opened:
        os.close(fd)
    raise problem


def _in_child(what: str, work: Callable[[], bytes]) -> bytes:
    def bounded() -> bytes:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_LONGEST_S)
        try:
            return work()
        except FusevolError:
            raise
        except OSError as error:
            raise _explained(what, error) from None
        except Exception as error:
            raise FusevolError(f"{what}: {error!r}") from None

    def killed(number: int) -> FusevolError:
        why = f"within {_LONGEST_S} s" if number == signal.SIGALRM else f"(signal {number})"
        return FusevolError(f"{what}: cannot look up a path of the container {why}")

    return in_child(bounded, killed)


def _explained(what: str, error: OSError) -> FusevolError:
    if error.errno == errno.EPERM:
        return NotPermittedError(
            f"{what}: not permitted; this requires CAP_SYS_ADMIN, also in the container's user "
            f"namespace"
        )
    if error.errno == errno.ENOSYS:
        return UnsupportedError(f"{what}: this kernel is too old; Linux 5.12 is required")
    where = f"{os.fsdecode(error.filename)} of " if error.filename else ""
    return FusevolError(f"{where}{what}: {error.strerror or error}")
