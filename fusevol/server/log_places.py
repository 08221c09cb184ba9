"""Where access logs are: of what is served, and of volumes that nobody uses right now."""

from fusevol.errors import NotFoundError
from fusevol.mounts.registry import all_served, resolved
from fusevol.options.config import NO_LOG, STDOUT_LOG
from fusevol.server import store


def find_log(mountpoint: str | None, volume: str | None) -> str:
    """Return the access log of a served mount, given its mount point, or of a volume by its name.

    Raises:
        NotFoundError: nothing is served there and no volume is called so, or it has no log that
            can be read.
    """
    what = f"at {mountpoint}" if mountpoint is not None else f"as volume {volume}"
    log = _served_log(mountpoint, volume)
    if log is None and volume is not None:
        log = log_of_volume(volume)
    if log is None:
        raise NotFoundError(
            f"nothing is served {what}; `fusevol status` lists what is, `fusevol volume ls` what "
            f"can be"
        )
    if log in (NO_LOG, STDOUT_LOG):
        raise NotFoundError(
            f"what is served {what} has no log file (its log is {log}); give it one with log=FILE"
        )
    return log


def log_of_volume(name: str) -> str | None:
    """Return where the records of a volume of `fusevol serve` go; None if there is none."""
    for stored in store.load_volumes():
        if stored.name == name:
            return stored.log
    return None


def _served_log(mountpoint: str | None, volume: str | None) -> str | None:
    path = None if mountpoint is None else resolved(mountpoint)
    for served in all_served():
        if served.mountpoint == path or (volume is not None and served.name == volume):
            return served.log
    return None
