"""`fusevol unmount`: end a mount of fusevol, and only of fusevol.

Nothing here asks the mount itself: its source may hang, or its worker be stopped.
"""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

import click

from fusevol.cli.completion import complete_mountpoint
from fusevol.errors import FusevolError, NotFoundError, NotPermittedError
from fusevol.linux.mount_users import MountUser, users
from fusevol.linux.mountinfo import Mount, is_below, mount_at, mount_tables, mounts
from fusevol.mounts import mounting, registry
from fusevol.mounts.connection import Connection
from fusevol.mounts.preflight import Liveness, answer, remove_dead
from fusevol.server import store
from fusevol.terminal import printable

_END_S: Final = 10.0
_ABORTED_S: Final = 2.0
"""How long a worker has to end by itself after its mount was aborted."""
_FORCED_S: Final = 7.0
"""How long a keeper may take that is told to end at once."""
_LOOK_S: Final = 3.0
"""How long to look for who uses a mount."""
_SHOWN: Final = 5


@click.command()
@click.argument("mountpoint", shell_complete=complete_mountpoint)
@click.option(
    "-l", "--lazy", is_flag=True,
    help="Detach now; who has files open goes on, and the mount ends with the last one.",
)  # fmt: skip
@click.option(
    "-f", "--force", is_flag=True,
    help="End it although it is in use, or its source hangs: open files fail from now on.",
)  # fmt: skip
def unmount(mountpoint: str, lazy: bool, force: bool) -> None:
    """End the fusevol mount at MOUNTPOINT.

    Returns when the last record is in the log. If the mount is in use, nothing happens but that you
    are told by whom; --lazy or --force end it all the same. A mount left dead by a crash is
    removed. Mounts of other programs are never touched.
    """
    mount = _mount_of_ours(registry.resolved(mountpoint))
    served = registry.get(mount.mountpoint)
    if served is not None and served.device != mount.device:
        served = None
    if force:
        _abort(mount, served)
    elif lazy:
        _check_unreferenced(mount.mountpoint)
        _remove(mount, lazily=True)
    else:
        _check_unreferenced(mount.mountpoint)
        binds = _binds(mount)
        _remove(mount)
        if _volume_of(mount.mountpoint):
            store.remove_mountpoint(mount.mountpoint)
        if served is not None and not _are_there(binds):
            _await_end(served)
    if served is not None and served.is_dead:
        registry.remove(mount.mountpoint, served.pid)


def _mount_of_ours(mountpoint: str) -> Mount:
    mount = mount_at(mountpoint)
    if mount is None:
        raise NotFoundError(f"nothing is mounted at {mountpoint}")
    if mount.fstype != registry.FSTYPE:
        raise NotFoundError(
            f"{mountpoint} is a mount of type {mount.fstype}, not of fusevol; use umount"
        )
    return mount


def _remove(mount: Mount, lazily: bool = False) -> None:
    try:
        mounting.unmount(mount.mountpoint, lazily)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise _refused(mount.mountpoint, error) from None
        said = answer(mount.mountpoint)
        if said is not Liveness.DEAD:
            raise _busy(mount, said) from None
        remove_dead(mount.mountpoint)


def _is_there(mount: Mount) -> bool:
    """Tell whether a mount is still the one at its mount point."""
    now = mount_at(mount.mountpoint)
    return now is not None and (now.mount_id, now.device) == (mount.mount_id, mount.device)


def _abort(mount: Mount, served: registry.MountEntry | None) -> None:
    """End a mount whoever uses it, and its worker, which may be stopped or wait for its source."""
    try:
        Connection.of(mount.device, lambda: _is_there(mount)).abort()
    except FusevolError as error:
        # Another may have ended it just now; its end is waited for all the same.
        if _is_there(mount):
            raise type(error)(f"{mount.mountpoint}: {error}") from None
    try:
        mounting.unmount(mount.mountpoint, lazily=True)
    except (OSError, FusevolError):
        # Who keeps the mount may have found it dead and removed it.
        if _is_there(mount):
            raise
    if served is None or _is_within(_ABORTED_S, lambda: _has_ended(served)):
        return
    # Told twice, it kills the worker, and does not wait long for one that cannot be killed.
    for number in (signal.SIGTERM, signal.SIGINT):
        served.keeper.signal(number)
    if not _is_within(_FORCED_S, lambda: not served.keeper.runs()):
        served.server.signal(signal.SIGKILL)
        _is_within(_ABORTED_S, lambda: _has_ended(served))
    if served.server.runs():
        click.echo(
            f"fusevol: {served.mountpoint} is unmounted; its worker, process {served.worker}, ends "
            f"as soon as the source {served.source} lets it",
            err=True,
        )


def _volume_of(mountpoint: str) -> str:
    """Return the volume of `fusevol serve` that is mounted there; empty if it is none."""
    directory, name = os.path.split(mountpoint)
    return name if directory == os.path.realpath(store.mountpoints_directory()) else ""


def _check_unreferenced(mountpoint: str) -> None:
    """Refuse to take a volume from containers: the next one could not have it, either."""
    volume = _volume_of(mountpoint)
    holders = sorted(store.load_references().get(volume, ())) if volume else []
    if holders:
        raise FusevolError(
            f"{mountpoint} is volume {volume} of `fusevol serve`, in use by "
            f"{_some([printable(holder) for holder in holders])}; end these, or give back what "
            f"nobody holds any more with `fusevol volume release {volume}`; --force makes their "
            f"open files fail"
        )


def _refused(mountpoint: str, error: OSError) -> FusevolError:
    if error.errno == errno.EPERM:
        return NotPermittedError(f"{mountpoint}: only who mounted it, or root, may unmount it")
    return FusevolError(f"unmounting {mountpoint} failed: {error.strerror}")


def _busy(mount: Mount, said: Liveness) -> FusevolError:
    above = [m.mountpoint for m in mounts() if is_below(m.mountpoint, mount.mountpoint)]
    by = [f"{printable(user.comm)} ({user.pid})" for user in _users(mount.device)]
    by += [f"the mount at {printable(path)}" for path in above]
    # A call that waits for an answer need not have anything open.
    unknown = "calls that wait for it" if said is Liveness.NONE else "what /proc does not show"
    return FusevolError(
        f"{mount.mountpoint} is in use by {_some(by) or unknown}"
        f"{' and does not answer' if said is Liveness.NONE else ''}; end this, or use --lazy "
        f"(detach it now, let them finish) or --force (their open files fail)"
    )


def _users(device: int) -> list[MountUser]:
    """Return who uses a file system, as far as that can be found out in time."""
    found: list[MountUser] = []

    def look() -> None:
        found.extend(users(device))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(_LOOK_S)
    return list(found)


def _some(names: list[str]) -> str:
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    shown = names[:_SHOWN] + more
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))


def _binds(mount: Mount) -> set[int]:
    """Return the ids of the other mounts of the same file system, in all mount namespaces.

    Looked up while it is mounted: afterwards the kernel may give its device number to another.
    """
    return {
        other.mount_id
        for table in mount_tables()
        for other in table.mounts
        if other.device == mount.device and other.mount_id != mount.mount_id
    }


def _are_there(binds: set[int]) -> bool:
    """Tell whether any of these mounts is there: it keeps the worker going, which is fine."""
    return bool(binds) and any(
        mount.mount_id in binds for table in mount_tables() for mount in table.mounts
    )


def _await_end(served: registry.MountEntry) -> None:
    """Wait for the worker to write its last record."""
    if not _is_within(_END_S, lambda: _has_ended(served)):
        raise FusevolError(
            f"{served.mountpoint} is unmounted, but its worker, process {served.worker}, has not "
            f"ended within {_END_S:g} s: it was stopped, waits for its source {served.source}, or "
            f"the mount is kept by what /proc does not show"
        )


def _has_ended(served: registry.MountEntry) -> bool:
    """Tell whether nobody serves a mount any more; all that is left of it is done then."""
    if _volume_of(served.mountpoint):
        return not served.server.runs()
    return not served.keeper.runs()


def _is_within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
