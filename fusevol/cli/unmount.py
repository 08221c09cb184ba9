"""`fusevol unmount`: end a mount of fusevol, and only of fusevol."""

import errno
import time

import click

from fusevol.cli.completion import complete_mountpoint
from fusevol.daemon import registry
from fusevol.daemon.checks import is_dead, remove_dead
from fusevol.daemon.mounting import unmount as remove_mount
from fusevol.errors import FusevolError, NotFoundError, NotPermittedError
from fusevol.linux.mountinfo import Mount, mount_at, mounts

_END_S = 10.0


@click.command()
@click.argument("mountpoint", type=click.Path(readable=False), shell_complete=complete_mountpoint)
@click.option("-l", "--lazy", is_flag=True, help="Detach now, end when the last user is done.")
def unmount(mountpoint: str, lazy: bool) -> None:
    """End the fusevol mount at MOUNTPOINT.

    Returns when the last record is in the log. A mount left dead by a crash is removed. Mounts of
    other programs are never touched.
    """
    mountpoint = registry.resolved(mountpoint)
    mount = mount_at(mountpoint)
    if mount is None:
        raise NotFoundError(f"nothing is mounted at {mountpoint}")
    if mount.fstype != registry.FSTYPE:
        raise NotFoundError(
            f"{mountpoint} is a mount of type {mount.fstype}, not of fusevol; use umount"
        )
    served = registry.get(mountpoint)
    binds = _binds(mount)
    try:
        if is_dead(mountpoint):
            remove_dead(mountpoint)
            return
        remove_mount(mountpoint, lazy)
    except OSError as error:
        raise _refused(mountpoint, error) from None
    if served is not None and served.device == mount.device and not lazy:
        _await_end(served, binds)


def _refused(mountpoint: str, error: OSError) -> FusevolError:
    if error.errno == errno.EBUSY:
        return FusevolError(
            f"{mountpoint} is in use; close what uses it (fuser -vm {mountpoint} shows it), or "
            f"detach it with --lazy"
        )
    if error.errno == errno.EPERM:
        return NotPermittedError(f"{mountpoint}: only who mounted it, or root, may unmount it")
    return FusevolError(f"unmounting {mountpoint} failed: {error.strerror}")


def _binds(mount: Mount) -> set[int]:
    """Return the ids of the other mounts of the same file system.

    Looked up while it is mounted: afterwards the kernel may give its device number to another.
    """
    return {
        other.mount_id
        for other in mounts()
        if other.device == mount.device and other.mount_id != mount.mount_id
    }


def _await_end(served: registry.Served, binds: set[int]) -> None:
    """Wait for the daemon to end; another bind of the mount may keep it alive, which is fine."""
    end = time.monotonic() + _END_S
    while time.monotonic() < end and _runs(served.pid):
        if binds and not binds.isdisjoint(mount.mount_id for mount in mounts()):
            return
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    """Tell whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in (b"Z", b"X")
