"""Putting a volume into a running container, and taking it out again.

What is attached is a copy of the volume's mount. It is moved into the container's mount namespace
by descriptors (open_tree(2), setns(2), move_mount(2)), the destination looked up inside the
container's root. A child process does that: who enters a mount namespace must have no threads, and
does not come back.
"""

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from fusevol import config
from fusevol.container.bind import bind
from fusevol.container.engines import Target
from fusevol.container.state import Process
from fusevol.errors import FusevolError, NotFoundError, UnsupportedError
from fusevol.linux import mounts
from fusevol.linux.files import open_in_root
from fusevol.linux.mountinfo import parse
from fusevol.linux.namespaces import CLONE_NEWNS, namespace_id, setns

_BYTES: Final = 1 << 16


class Attachment(msgspec.Struct):
    """A volume that was put into a running container.

    Attributes:
        target: what the container was called by.
        container: its full id.
        volume: name of the volume, as `fusevol serve` knows it.
        source: what was asked for: the name, or a path.
        mount_id: of the mount in the container (/proc/PID/mountinfo).
        since: RFC 3339, UTC.
    """

    target: str
    container: str
    name: str
    process: Process
    volume: str
    source: str
    destination: str
    read_only: bool
    mount_id: int
    since: str

    @property
    def holder(self) -> str:
        """Who refers to the volume."""
        return holder(self.container, self.destination)

    @property
    def path(self) -> str:
        """Where it is kept."""
        name = hashlib.sha256(self.holder.encode(errors="surrogateescape")).hexdigest()
        return os.path.join(_directory(), f"{name}.json")

    def save(self) -> None:
        """Keep it."""
        with open(f"{self.path}.new", "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(msgspec.json.encode(self))
        os.rename(f"{self.path}.new", self.path)

    def forget(self) -> None:
        """Keep it no longer."""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass


def holder(container: str, destination: str) -> str:
    """Return who refers to a volume that is attached at a place of a container."""
    return f"{container}:{destination}"


def attachments() -> list[Attachment]:
    """Return what is attached, the oldest first; what has ended is forgotten."""
    found = []
    directory = _directory()
    for name in os.listdir(directory):
        try:
            with open(os.path.join(directory, name), "rb") as file:
                attachment = msgspec.json.decode(file.read(), type=Attachment)
        except (OSError, msgspec.DecodeError):
            continue
        if attachment.process.runs():
            found.append(attachment)
        else:
            attachment.forget()
    return sorted(found, key=lambda one: one.since)


def find_attachment(target: Target, destination: str) -> Attachment:
    """Return what is attached to a container at a place; NotFoundError if nothing is."""
    for one in attachments():
        if (one.container, one.destination) == (target.id, destination):
            return one
    raise NotFoundError(
        f"nothing is attached to {target.word} at {destination}; `fusevol attach --list` shows "
        f"what is"
    )


def check_target(target: Target, destination: str) -> None:
    """Raise FusevolError if a volume cannot be attached there, before anything is done."""
    pid = target.process.pid
    try:
        shared = namespace_id(pid, "mnt") == namespace_id("self", "mnt")
    except OSError as error:
        raise FusevolError(f"{target.word} cannot be entered: {error.strerror}") from None
    if shared:
        raise UnsupportedError(
            f"{target.word} has the mount namespace of the host: what is attached to it would show "
            f"on the whole host; use fusevol mount"
        )
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        for mount in parse(file.read()):
            if mount.mountpoint == destination:
                raise FusevolError(
                    f"{destination} of {target.word} is a mount already ({mount.fstype}); choose "
                    f"another place, or take that away first"
                )


def attach(
    target: Target, tree_fd: int, volume: str, source: str, destination: str, read_only: bool
) -> Attachment:
    """Move a copy of a mount into a running container and keep a record of that.

    Raises:
        FusevolError: the kernel does not allow it, or the container has ended meanwhile.
    """
    is_file = not stat.S_ISDIR(os.stat(f"/proc/self/fd/{tree_fd}").st_mode)

    def move(root_fd: int) -> bytes:
        bind(tree_fd, root_fd, destination, read_only, is_file)
        return str(_mount_id(root_fd, destination)).encode()

    mount_id = int(_inside(target, move))
    attachment = Attachment(
        target.word, target.id, target.name, target.process, volume, source, destination,
        read_only, mount_id, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    )  # fmt: skip
    attachment.save()
    return attachment


def detach(target: Target, attachment: Attachment, *, lazy: bool) -> None:
    """Unmount in the container what was attached; it is forgotten then.

    Args:
        target: the container.
        attachment: what to take away.
        lazy: also if it is in use; what uses it goes on.

    Raises:
        FusevolError: it is in use, or something else is there by now.
    """
    destination = attachment.destination

    def unmount(root_fd: int) -> bytes:
        try:
            found = _mount_id(root_fd, destination)
        except FileNotFoundError:
            found = 0
        if found != attachment.mount_id:
            raise FusevolError(
                f"what is at {destination} of {target.word} is not what was attached there; it was "
                f"unmounted or hidden from inside, and is left alone"
            )
        os.fchdir(root_fd)
        os.chroot(".")
        flags = mounts.UMOUNT_NOFOLLOW | (mounts.MNT_DETACH if lazy else 0)
        try:
            mounts.umount(destination, flags)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise FusevolError(
                    f"{destination} of {target.word} is in use; end what uses it, or detach it "
                    f"with --lazy"
                ) from None
            raise
        return b""

    _inside(target, unmount)
    attachment.forget()


def _directory() -> str:
    path = os.path.join(config.state_directory(), "attachments")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def _mount_id(root_fd: int, path: str) -> int:
    """Return the id of the mount that a path of the container is on (proc_pid_fdinfo(5))."""
    fd = open_in_root(root_fd, path, os.O_PATH)
    try:
        with open(f"fdinfo/{fd}", opener=_own_proc) as file:
            for line in file:
                if line.startswith("mnt_id:"):
                    return int(line.split()[1])
    finally:
        os.close(fd)
    raise FusevolError("the kernel does not tell mount ids (fdinfo)")


_proc_fd = -1


def _own_proc(path: str, flags: int) -> int:
    """Open below our own /proc directory; the container's is not where we are listed."""
    return os.open(path, flags, dir_fd=_proc_fd)


def _inside(target: Target, work: Callable[[int], bytes]) -> bytes:
    """Do something in the container's mount namespace; return what `work` returns.

    Args:
        target: the container.
        work: gets a descriptor of the container's root directory.
    """
    pid = target.process.pid
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise FusevolError(f"{target.word} has ended") from None
    try:
        root_fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        if not target.process.runs():
            raise FusevolError(f"{target.word} has ended")
    except OSError as error:
        raise FusevolError(f"{target.word} cannot be entered: {error.strerror}") from None
    finally:
        os.close(pidfd)
    try:
        return _in_child(target, root_fd, namespace, work)
    finally:
        os.close(root_fd)
        os.close(namespace)


def _in_child(target: Target, root_fd: int, namespace: int, work: Callable[[int], bytes]) -> bytes:
    receiving, sending = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status, said = 1, b""
        try:
            global _proc_fd  # noqa: PLW0603  # of this process, which ends here
            _proc_fd = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            setns(namespace, CLONE_NEWNS)
            said = work(root_fd)
            status = 0
        except FusevolError as error:
            said = str(error).encode(errors="surrogateescape")
        except OSError as error:
            said = f"{target.word}: {_explained(error)}".encode(errors="surrogateescape")
        except BaseException as error:
            said = f"{target.word}: {error!r}".encode(errors="surrogateescape")
        finally:
            os.write(sending, said[:_BYTES])
            os._exit(status)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise FusevolError(said.decode(errors="surrogateescape") or f"{target.word}: it was killed")
    return said


def _explained(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return "not permitted; it takes CAP_SYS_ADMIN over the container's user namespace"
    if error.errno == errno.ENOSYS:
        return "this kernel cannot move mounts between namespaces (Linux 5.2 can)"
    return error.strerror or str(error)
