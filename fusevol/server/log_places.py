"""Where access logs are: those of mounts, and those of volumes that are not in use now."""

from fusevol.errors import NotFoundError
from fusevol.mounts.registry import all_served, resolved
from fusevol.options.config import NO_LOG, STDOUT_LOG
from fusevol.server import store
from fusevol.spelling import did_you_mean


def find_log(mountpoint: str | None, volume: str | None) -> str:
    """Return the access log of a served mount, given its mount point, or of a volume by its name.

    Raises:
        NotFoundError: there is no such mount or volume, or it has no log file.
    """
    what = f"mount at {mountpoint}" if mountpoint is not None else f"volume named {volume}"
    log = _served_log(mountpoint, volume)
    if log is None and volume is not None:
        log = log_of_volume(volume)
    if log is None:
        meant = "" if volume is None else did_you_mean(volume, _names())
        known = "; `fusevol status` lists mounts, `fusevol volume ls` lists volumes"
        raise NotFoundError(f"no {what}{meant or known}")
    if log in (NO_LOG, STDOUT_LOG):
        raise NotFoundError(f"the {what} has no log file (its log is {log}); set one with log=FILE")
    return log


def log_of_volume(name: str) -> str | None:
    """Return where the records of a volume of `fusevol serve` go; None if there is none."""
    for stored in store.load_volumes():
        if stored.name == name:
            return stored.log
    return None


def _names() -> set[str]:
    """Return the names of all volumes, served or not."""
    served = {one.name for one in all_served()}
    return served | {stored.name for stored in store.load_volumes()}


def _served_log(mountpoint: str | None, volume: str | None) -> str | None:
    path = None if mountpoint is None else resolved(mountpoint)
    for served in all_served():
        if served.mountpoint == path or (volume is not None and served.name == volume):
            return served.log
    return None
