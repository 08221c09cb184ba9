"""`fusevol reload`: switch running mounts to the installed code, or have them reopen their logs."""

import signal
import time
from collections.abc import Iterator
from typing import Final

import click

from fusevol.cli.completion import complete_mountpoint
from fusevol.errors import FusevolError, NotFoundError
from fusevol.mounts import log_trouble, registry
from fusevol.recovery.log_trouble import LogTrouble

_DONE_S: Final = 60.0
_LOG_S: Final = 10.0
_POLL_S: Final = 0.01


@click.command()
@click.argument("mountpoints", nargs=-1, metavar="[MOUNTPOINT]...",
                shell_complete=complete_mountpoint)  # fmt: skip
@click.option(
    "--logs", is_flag=True,
    help="Only reopen the access logs, as after a rotation; requests do not wait.",
)  # fmt: skip
def reload(mountpoints: tuple[str, ...], logs: bool) -> None:
    """Switch running mounts to the installed version of fusevol.

    Running requests finish; new ones wait a few tenths of a second. Open files, locks and memory
    maps stay. Each mount gets a `restart` record. Without MOUNTPOINT, all mounts that you serve are
    switched. The daemon of `fusevol serve` itself switches when it is restarted; its volumes stay
    mounted meanwhile.

    \b
    After an upgrade of the package:
      fusevol reload
    In logrotate, after it has renamed the logs:
      fusevol reload --logs
    """
    chosen = _chosen(mountpoints)
    number = signal.SIGHUP if logs else registry.RELOAD
    before = {mount.mountpoint: log_trouble.of(mount) for mount in chosen} if logs else {}
    told = [now for mount in chosen if (now := _told(mount, number)) is not None]
    failures: list[str] = []
    for mount in told:
        if logs:
            failures += _await_log(mount, before[mount.mountpoint])
        else:
            _await_change(mount)
    reached = {mount.mountpoint for mount in told}
    gone = [mount.mountpoint for mount in chosen if mount.mountpoint not in reached]
    if gone:
        failures.append(f"no keeper runs for {', '.join(gone)}; unmount and mount again")
    if failures:
        raise FusevolError("; ".join(failures))


def _chosen(mountpoints: tuple[str, ...]) -> list[registry.MountEntry]:
    served = registry.all_served()
    wanted = set(map(registry.resolved, mountpoints))
    unknown = wanted - {mount.mountpoint for mount in served}
    if unknown:
        raise NotFoundError(
            f"no mount at {', '.join(sorted(unknown))}; `fusevol status` lists the mounts"
        )
    return [mount for mount in served if not wanted or mount.mountpoint in wanted]


def _told(served: registry.MountEntry, number: signal.Signals) -> registry.MountEntry | None:
    """Signal the keeper of a mount, or its successor; return its entry, None if no keeper runs."""
    end = time.monotonic() + _DONE_S
    while not served.keeper.signal(number):
        if not served.is_kept or time.monotonic() > end:
            return None
        # The worker is about to become the keeper.
        time.sleep(_POLL_S)
        served = registry.get(served.mountpoint) or served
    return served


def _await_log(mount: registry.MountEntry, before: LogTrouble | None) -> Iterator[str]:
    """Wait until a mount has tried to reopen its log; yield the reason if it could not.

    Args:
        before: the state before the mount was signalled.
    """
    end = time.monotonic() + _LOG_S
    while before is not None and time.monotonic() < end:
        now = log_trouble.of(mount)
        if now is None:
            return  # It was unmounted meanwhile, or is changing its processes.
        if now.opened >= now.wanted > before.wanted:
            if now.fault:
                yield f"{mount.mountpoint}: {log_trouble.why_not_opened(mount.log, now)}"
            return
        time.sleep(_POLL_S)
    if before is not None:
        yield (
            f"{mount.mountpoint} did not reopen its log within {_LOG_S:g} s; "
            f"`fusevol status` shows its state"
        )


def _await_change(before: registry.MountEntry) -> None:
    """Wait until a successor serves a mount."""
    end = time.monotonic() + _DONE_S
    while time.monotonic() < end:
        now = registry.get(before.mountpoint)
        if now is None:
            return  # it was unmounted meanwhile
        if now.message and now.message != before.message:
            raise FusevolError(f"{before.mountpoint}: {now.message}")
        if now.restarts > before.restarts and now.worker:
            return
        time.sleep(_POLL_S)
    raise FusevolError(
        f"{before.mountpoint} did not switch to the installed version within {_DONE_S:g} s; "
        f"`fusevol status` shows its state"
    )
