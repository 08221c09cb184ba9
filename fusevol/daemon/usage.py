"""Which volumes are bound somewhere: the mount tables of all mount namespaces.

Reads /proc only, never a mounted file system.
"""

import os
from collections.abc import Iterator

from fusevol.daemon.registry import FSTYPE
from fusevol.linux.mountinfo import Mount, parse


def bound_devices(directory: str) -> set[int]:
    """Return the devices (st_dev) of mounts of fusevol that are bound anywhere.

    Not counted is a mount at its own place below `directory`, as other namespaces that copy all
    mounts of the host see it too, at the same path or below the path that they have the host at.

    Args:
        directory: where volumes are mounted on the host.
    """
    return {
        mount.device
        for table in _mount_tables()
        for mount in table
        if mount.fstype == FSTYPE and not _is_own_place(mount.mountpoint, directory)
    }


def _is_own_place(mountpoint: str, directory: str) -> bool:
    return os.path.dirname(mountpoint).endswith(directory)


def _mount_tables() -> Iterator[list[Mount]]:
    """Yield the mounts of each mount namespace that has a process."""
    seen = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            namespace = os.readlink(f"/proc/{name}/ns/mnt")
            if namespace in seen:
                continue
            with open(f"/proc/{name}/mountinfo", "rb") as file:
                text = file.read()
        except OSError:
            # It ended, or is ending and has no namespace any more.
            continue
        seen.add(namespace)
        yield list(parse(text))
