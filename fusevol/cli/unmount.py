"""`fusevol unmount`: end a mount of fusevol, and only of fusevol.

Nothing here calls into the mount itself: its source may hang, or its worker may be stopped.
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
from fusevol.linux.process import comm
from fusevol.mounts import mounting, registry
from fusevol.mounts.connection import Connection
from fusevol.mounts.liveness import Liveness, answer, remove_dead
from fusevol.server import store
from fusevol.terminal import printable

_END_S: Final = 10.0
_ABORTED_S: Final = 2.0
"""How long a worker has to end by itself after its mount was aborted."""
_FORCED_S: Final = 7.0
"""How long a keeper may take to end after it was asked to end at once."""
_LOOK_S: Final = 3.0
"""How long to look for the users of a mount."""
_COPIES_S: Final = 2.0
"""How long to wait for other mounts of a volume: a starting container has one for a moment."""
_SHOWN: Final = 5


@click.command()
@click.argument("mountpoint", shell_complete=complete_mountpoint)
@click.option(
    "-l", "--lazy", is_flag=True,
    help="Detach now; processes keep their open files, and the mount ends when the last one is "
    "closed.",
)  # fmt: skip
@click.option(
    "-f", "--force", is_flag=True,
    help="End the mount even if it is in use or its source hangs: open files fail from then on.",
)  # fmt: skip
def unmount(mountpoint: str, lazy: bool, force: bool) -> None:
    """End the fusevol mount at MOUNTPOINT.

    Returns when the last record is in the log. If the mount is busy, it stays mounted and the
    processes that use it are listed; use --lazy or --force to end it anyway. A dead mount, left by
    a crash, is removed. Mounts of other programs are never touched.
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
        if served is not None:
            _await_end(served, binds)
    if served is not None and served.is_dead:
        registry.remove(mount.mountpoint, served.pid)


def _mount_of_ours(mountpoint: str) -> Mount:
    mount = mount_at(mountpoint)
    if mount is None:
        raise NotFoundError(f"nothing is mounted at {mountpoint}; see `fusevol status`")
    if mount.fstype != registry.FSTYPE:
        raise NotFoundError(
            f"{mountpoint} is a mount of type {mount.fstype}, not a fusevol mount; use umount"
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
    """Return whether a mount is still the one at its mount point."""
    now = mount_at(mount.mountpoint)
    return now is not None and (now.mount_id, now.device) == (mount.mount_id, mount.device)


def _abort(mount: Mount, served: registry.MountEntry | None) -> None:
    """End a mount even if in use, and its worker, which may be stopped or wait for its source."""
    try:
        Connection.of(mount.device, lambda: _is_there(mount)).abort()
    except FusevolError as error:
        # Another process may have ended it just now; wait for its end anyway.
        if _is_there(mount):
            raise type(error)(f"{mount.mountpoint}: {error}") from None
    try:
        mounting.unmount(mount.mountpoint, lazily=True)
    except (OSError, FusevolError):
        # The keeper may have found the mount dead and removed it.
        if _is_there(mount):
            raise
    if served is None or _is_within(_ABORTED_S, lambda: _has_ended(served)):
        return
    # On a second signal it kills the worker, and does not wait long if that cannot be killed.
    for number in (signal.SIGTERM, signal.SIGINT):
        served.keeper.signal(number)
    if not _is_within(_FORCED_S, lambda: not served.keeper.runs()):
        served.server.signal(signal.SIGKILL)
        _is_within(_ABORTED_S, lambda: _has_ended(served))
    if served.server.runs():
        click.echo(
            f"fusevol: {served.mountpoint} is unmounted; its worker, process {served.worker}, "
            f"exits when the source {served.source} answers",
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
            f"{_some([printable(holder) for holder in holders])}; stop these, or drop stale "
            f"references with `fusevol volume release {volume}`; --force makes their open files "
            f"fail"
        )


def _refused(mountpoint: str, error: OSError) -> FusevolError:
    if error.errno == errno.EPERM:
        return NotPermittedError(
            f"cannot unmount {mountpoint}: only root or the user who mounted it may do this"
        )
    return FusevolError(f"cannot unmount {mountpoint}: {error.strerror}")


def _busy(mount: Mount, said: Liveness) -> FusevolError:
    above = [m.mountpoint for m in mounts() if is_below(m.mountpoint, mount.mountpoint)]
    by = [f"{printable(user.comm)} ({user.pid})" for user in _users(mount.device)]
    by += [f"the mount at {printable(path)}" for path in above]
    # A call that waits for an answer need not have anything open.
    unknown = (
        "pending system calls" if said is Liveness.NONE else "processes that /proc does not show"
    )
    return FusevolError(
        f"{mount.mountpoint} is in use by {_some(by) or unknown}"
        f"{' and does not answer' if said is Liveness.NONE else ''}; stop these, or use --lazy "
        f"(detach now, let them finish) or --force (their open files fail)"
    )


def _users(device: int) -> list[MountUser]:
    """Return the processes that use a file system, as far as they can be found in time."""
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


def _places(binds: set[int]) -> list[str]:
    """Return where these mounts still exist, in words: here, or for which processes."""
    here = {mount.mount_id for mount in mounts()}
    found = []
    for table in mount_tables():
        left = [mount for mount in table.mounts if mount.mount_id in binds]
        if left and left[0].mount_id in here:
            found += [f"at {printable(mount.mountpoint)}" for mount in left]
        elif left:
            found.append(f"for process {table.pid}{_named(table.pid)}")
    return found


def _named(pid: int) -> str:
    name = comm(pid)
    return f" ({printable(name)})" if name else ""


def _await_end(served: registry.MountEntry, binds: set[int]) -> None:
    """Wait for the worker to write its last record, unless it goes on serving one of `binds`."""
    if binds:
        if _is_within(_COPIES_S, lambda: _has_ended(served)):
            return
        if places := _places(binds):
            click.echo(
                f"fusevol: {served.mountpoint} is unmounted, but the volume is still mounted "
                f"{_some(places)}; it is served and recorded until that ends",
                err=True,
            )
            return
    if not _is_within(_END_S, lambda: _has_ended(served)):
        raise FusevolError(
            f"{served.mountpoint} is unmounted, but its worker, process {served.worker}, did not "
            f"exit within {_END_S:g} s: it is stopped, waits for its source {served.source}, or "
            f"processes that /proc does not show still use the mount"
        )


def _has_ended(served: registry.MountEntry) -> bool:
    """Return whether no process serves a mount any more, so that nothing of it is pending."""
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
