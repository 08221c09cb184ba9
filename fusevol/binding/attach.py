"""Putting a volume into a running container, and taking it out again.

What is attached is a copy of the volume's mount. It is moved into the container's mount namespace
by descriptors (open_tree(2), setns(2), move_mount(2)), the destination looked up inside the
container's root (`binding.inside`). The kernel identifies the mount by its id and its device, and
so do we later: paths are the container's to change.
"""

import errno
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

from fusevol.binding.attachments import Attachment, attachments, changing
from fusevol.binding.bind import bind, open_subpath
from fusevol.binding.inside import Inside, inside
from fusevol.binding.owner import host_id_of_root
from fusevol.containers.target import RunningContainer
from fusevol.errors import FusevolError, NotFoundError, UnsupportedError, UsageError
from fusevol.linux import mounts
from fusevol.linux.credentials import filesystem_identity, keep_capabilities_across_fsuid
from fusevol.linux.mountinfo import Mount, parse
from fusevol.linux.namespaces import CLONE_NEWNS, namespace_id, setns

_KERNELS: Final = ("proc", "sys")
_GONE: Final = b"gone"


class AttachSource(NamedTuple):
    """What is to be attached: a volume as it is mounted on the host.

    Attributes:
        volume: its name.
        source: how it was called, for people.
        mountpoint: where it is mounted.
        daemon: process in whose mount namespace it is.
        subpath: what of it is attached; empty for all of it.
        is_own: it is mounted for this attachment alone.
    """

    volume: str
    source: str
    mountpoint: str
    daemon: int
    subpath: str = ""
    is_own: bool = False


def find_attachment(container: str, destination: str) -> Attachment | None:
    """Return what is attached to a container, given by its full id, at a place."""
    for one in attachments():
        if (one.container, one.destination) == (container, destination):
            return one
    return None


def check(target: RunningContainer, destination: str) -> None:
    """Find out beforehand whether a volume can be attached there.

    Raises:
        FusevolError: it cannot, and why.
    """
    if destination.split("/")[1] in _KERNELS:
        raise UsageError(
            f"a volume cannot be mounted at {destination}, which belongs to the kernel"
        )
    if _is_of_host(target.process.pid):
        raise UnsupportedError(
            f"{target.word} shares the mounts of the host: an attached volume would show on the "
            f"whole host; use fusevol mount"
        )
    host = _groups_of_host()

    def look(container: Inside) -> bytes:
        container.enter()
        _check_place(container, target, destination, host)
        return b""

    inside(target, look)


def attach(
    target: RunningContainer, served: AttachSource, destination: str, read_only: bool
) -> Attachment:
    """Move a copy of a volume's mount into a running container and keep a record of that.

    Raises:
        FusevolError: the kernel does not allow it, something is there already, or the container
            has ended meanwhile.
    """
    host = _groups_of_host()
    owner = [host_id_of_root(target.process.pid, kind) for kind in ("uid", "gid")]

    def move(container: Inside) -> bytes:
        tree, device = _copy(container, served)
        is_file = not stat.S_ISDIR(os.fstat(tree).st_mode)
        container.enter()
        _check_place(container, target, destination, host)
        with suppress(PermissionError):
            # The root directory may belong to nobody in there.
            keep_capabilities_across_fsuid()
        with filesystem_identity(*owner):
            bind(tree, container.root_fd, destination, read_only, is_file)
        return b"%d %d" % (container.mount_of(tree), device)

    with changing(), _uninterrupted():
        mount_id, device = map(int, inside(target, move).split())
        attachment = Attachment(
            target.word, target.id, target.name, target.process, served.volume, served.source,
            destination, read_only, mount_id, device,
            datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            served.mountpoint if served.is_own else "",
        )  # fmt: skip
        try:
            attachment.save()
        except OSError as error:
            _take_away(attachment, lazy=True)
            raise FusevolError(f"{error.filename} cannot be written: {error.strerror}") from None
    return attachment


def detach(attachment: Attachment, *, lazy: bool) -> bool:
    """Unmount in the container what was attached; it is forgotten then.

    Args:
        attachment: what to take away.
        lazy: also if it is in use; what uses it goes on.

    Returns:
        Whether it was still mounted: the container may have unmounted it by itself.

    Raises:
        FusevolError: it is in use, or something else hides it.
    """
    with changing(), _uninterrupted():
        was_there = _take_away(attachment, lazy)
        attachment.forget()
    return was_there


def _take_away(attachment: Attachment, lazy: bool) -> bool:
    def unmount(container: Inside) -> bytes:
        container.enter()
        for mount in container.mounts():
            if _is_of(attachment, mount):
                _unmount(container, attachment, mount.mountpoint, lazy)
                return b""
        return _GONE

    return inside(attachment.attached_to, unmount) != _GONE


def _is_of(attachment: Attachment, mount: Mount) -> bool:
    # The id alone is not enough: it goes to another mount as soon as this one is gone.
    return (mount.mount_id, mount.device) == (attachment.mount_id, attachment.device)


def _unmount(container: Inside, attachment: Attachment, path: str, lazy: bool) -> None:
    """Unmount what is at `path`, in the directory that it is in now.

    A descriptor of the mount itself would keep it busy. The name cannot go to another directory
    meanwhile: the kernel renames no mount point in the namespace that the mount is in.
    """
    parent, name = os.path.split(path)
    word = attachment.target
    try:
        os.fchdir(container.open(parent, os.O_DIRECTORY | os.O_NOFOLLOW))
        top = container.open(path, os.O_NOFOLLOW)
        try:
            is_on_top = container.mount_of(top) == attachment.mount_id
        finally:
            os.close(top)
    except OSError:
        is_on_top = False
    if not is_on_top:
        raise FusevolError(
            f"{path} of {word} is hidden by another mount; unmount that first, inside the container"
        )
    try:
        mounts.umount(name, mounts.UMOUNT_NOFOLLOW | (mounts.MNT_DETACH if lazy else 0))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        below = [one.mountpoint for one in container.mounts()
                 if one.mountpoint.startswith(f"{path}/")]  # fmt: skip
        why = f"{below[-1]} is mounted on it" if below else "used by processes"
        raise FusevolError(
            f"{path} of {word} is in use: {why}; stop that first, or detach with --lazy"
        ) from None


def _copy(container: Inside, served: AttachSource) -> tuple[int, int]:
    """Return a copy of a volume's mount, attached nowhere, and the device of its files."""
    try:
        namespace = os.open(f"/proc/{served.daemon}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(namespace, CLONE_NEWNS)
        finally:
            os.close(namespace)
    except FileNotFoundError:
        raise NotFoundError("fusevol serve has exited; start it again") from None
    tree = open_subpath(served.mountpoint, served.subpath)
    device = os.fstat(tree).st_dev
    at_place = [m.device for m in container.mounts() if m.mountpoint == served.mountpoint]
    if device not in at_place:
        # What is below the mount point shall never be taken for the volume.
        raise FusevolError(
            f"volume {served.volume} is no longer mounted; `fusevol volume inspect "
            f"{served.volume}` shows why"
        )
    return tree, device


def _check_place(
    container: Inside, target: RunningContainer, destination: str, host: set[int]
) -> None:
    place = container.locate(destination)
    if place.mount is None:
        raise FusevolError(f"{destination} of {target.word} is being changed; try again")
    if place.exists and place.mount.mountpoint == place.path:
        raise FusevolError(
            f"{place.path} of {target.word} is already a mount ({place.mount.fstype}); choose "
            f"another place, or unmount that first"
        )
    if place.mount.shared in host:
        raise UnsupportedError(
            f"{place.mount.mountpoint} of {target.word} shares its mounts with the host, so an "
            f"attached volume would show there, too; choose another place"
        )


def _is_of_host(pid: int) -> bool:
    if pid == 1:
        return True
    for other in ("self", 1):
        try:
            if namespace_id(pid, "mnt") == namespace_id(other, "mnt"):
                return True
        except OSError:
            # It has ended, or is not ours to look at: entering it will report that.
            continue
    return False


def _groups_of_host() -> set[int]:
    """Return the peer groups of mounts whose events reach the host (mount_namespaces(7))."""
    groups: set[int] = set()
    for pid in ("self", 1):
        try:
            with open(f"/proc/{pid}/mountinfo", "rb") as file:
                for mount in parse(file.read()):
                    groups |= {mount.shared, mount.master}
        except OSError:
            continue
    return groups - {0}


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off signals that would end us between a mount and the record of it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
