"""Which volumes are bound somewhere: the mount tables of all mount namespaces."""

import os

import trio

from fusevol.linux.mountinfo import mount_tables
from fusevol.mounts.registry import FSTYPE
from fusevol.server import store


async def scan() -> dict[int, int]:
    """Return `bound_devices` of the daemon's volumes; it waits on a thread."""
    return await trio.to_thread.run_sync(bound_devices, store.mountpoints_directory())


def bound_devices(directory: str) -> dict[int, int]:
    """Return the devices (st_dev) of mounts of fusevol that are bound anywhere.

    Each with a process of a mount namespace where it is.

    Not counted is a mount at its own place below `directory`, as other namespaces that copy all
    mounts of the host see it too, at the same path or below the path that they have the host at.

    Args:
        directory: where volumes are mounted on the host.
    """
    return {
        mount.device: table.pid
        for table in mount_tables()
        for mount in table.mounts
        if mount.fstype == FSTYPE and not _is_own_place(mount.mountpoint, directory)
    }


def _is_own_place(mountpoint: str, directory: str) -> bool:
    return os.path.dirname(mountpoint).endswith(directory)
