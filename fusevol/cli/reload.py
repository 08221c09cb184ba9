"""`fusevol reload`: have access logs opened anew, after they were renamed."""

import os
import signal

import click

from fusevol.cli.completion import complete_mountpoint
from fusevol.daemon import registry
from fusevol.errors import FusevolError, NotFoundError


@click.command()
@click.argument("mountpoints", nargs=-1, metavar="[MOUNTPOINT]...",
                shell_complete=complete_mountpoint)  # fmt: skip
def reload(mountpoints: tuple[str, ...]) -> None:
    """Open access logs anew: after a rotation, records go on in a new file of the old name.

    Without MOUNTPOINT for all mounts that you serve. Records written in the meantime are in the
    renamed file; none is lost, and `seq` goes on. The same happens when a daemon gets SIGHUP.

    \b
    What logrotate runs after it renamed the logs:
      fusevol reload
    """
    served = registry.all_served()
    wanted = set(map(registry.resolved, mountpoints))
    unknown = wanted - {mount.mountpoint for mount in served}
    if unknown:
        raise NotFoundError(
            f"nothing is served at {', '.join(sorted(unknown))}; `fusevol status` lists what is"
        )
    failed = [
        mount.mountpoint
        for mount in served
        if (not wanted or mount.mountpoint in wanted) and not hang_up(mount.worker)
    ]
    if failed:
        raise FusevolError(f"the worker of {', '.join(failed)} is gone; unmount and mount anew")


def hang_up(worker: int) -> bool:
    """Send SIGHUP to a worker; return whether `worker` was one.

    The descriptor makes sure that the process that was looked at is the one that gets the signal,
    which would kill most others.
    """
    try:
        fd = os.pidfd_open(worker)
    except ProcessLookupError:
        return False
    try:
        if not registry.is_ours(worker):
            return False
        signal.pidfd_send_signal(fd, signal.SIGHUP)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True
