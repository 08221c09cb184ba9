"""The control group of a container: its id in the path is what tells its processes from others.

    .../fusevol/ID      in the unified hierarchy, or where there is none in those of version 1

No limits are set.
"""

import os
from collections.abc import Iterator
from typing import Final

from fusevol.errors import FusevolError
from fusevol.linux.mountinfo import mounts

_PARENT: Final = "fusevol"
_VERSION_1: Final = ("name=systemd", "cpu", "memory", "pids", "freezer")
"""Hierarchies of version 1 in which a container is looked for, or frozen."""


def create(container_id: str, pid: int) -> None:
    """Make the control group of a container and move a process there.

    Raises:
        FusevolError: there is no hierarchy, or it cannot be written.
    """
    made = False
    for path in _paths(container_id):
        try:
            _make(path)
            with open(os.path.join(path, "cgroup.procs"), "w") as file:
                file.write(str(pid))
            made = True
        except OSError as error:
            raise FusevolError(
                f"control group {path} cannot be used: {error.strerror}; fusevol identifies "
                f"containers by it"
            ) from None
    if not made:
        raise FusevolError(
            "no control groups are mounted, and fusevol identifies containers by them; mount -t "
            "cgroup2 none /sys/fs/cgroup"
        )


def _make(path: str) -> None:
    """Make a control group; the last other container may take the outer one away meanwhile."""
    while True:
        try:
            return os.makedirs(path, exist_ok=True)
        except FileNotFoundError:
            if not os.path.isdir(os.path.dirname(os.path.dirname(path))):
                raise


def remove(container_id: str) -> bool:
    """Remove the control groups of a container; return whether it has none any more.

    The kernel keeps them while a process of the container ends.
    """
    gone = True
    for path in _paths(container_id):
        for directory in (path, os.path.dirname(path)):
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                continue
            except OSError:
                # The outer one is in use by another container, which is as it should be.
                gone = gone and directory != path
                break
    return gone


def freeze(container_id: str, frozen: bool) -> bool:
    """Stop all processes of a container, or let them go on; return whether that is possible."""
    for path in _paths(container_id):
        for name, words in (("cgroup.freeze", "01"), ("freezer.state", ("THAWED", "FROZEN"))):
            try:
                with open(os.path.join(path, name), "r+") as file:
                    file.write(words[frozen])
            except OSError:
                continue
            return True
    return False


def is_frozen(container_id: str) -> bool:
    """Tell whether all processes of a container stand still, some time after `freeze`."""
    for path in _paths(container_id):
        for name, line in (("cgroup.events", "frozen 1"), ("freezer.state", "FROZEN")):
            try:
                with open(os.path.join(path, name)) as file:
                    if line in file.read().splitlines():
                        return True
            except OSError:
                continue
    return False


def _paths(container_id: str) -> Iterator[str]:
    found = mounts()
    unified = [mount for mount in found if mount.fstype == "cgroup2"]
    if unified:
        yield os.path.join(unified[0].mountpoint, _PARENT, container_id)
        return
    for mount in found:
        if mount.fstype == "cgroup" and set(mount.super_options.split(",")) & set(_VERSION_1):
            yield os.path.join(mount.mountpoint, _PARENT, container_id)
