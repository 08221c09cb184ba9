"""Places: where the source shows one file system several times.

A bind mount below the source makes a directory appear twice, with the same st_dev and st_ino. To
clients the two are two: each has its own path, and rename(2) and link(2) between them fail with
EXDEV. So an object is known by the mount that it is on, too. Mounts that show a file system which
the source shows elsewhere as well get a number; it stands in `Inode.dev` above st_dev. All others
have none, and cost nothing.

Nothing can be mounted inside the private copy of the source, so an object is on the mount that the
directory is on in which it was found, unless it is the root of a mount; these are known.
"""

import errno
import logging
import os
import zlib
from collections.abc import Iterable
from os import stat_result
from typing import Final

from fusevol.inodes.objects import ST_DEV, Directory
from fusevol.linux.files import open_beneath
from fusevol.linux.mountinfo import Mount, mount_id
from fusevol.linux.statx import mount_of_entry

logger = logging.getLogger(__name__)

_NUMBERS: Final = 1 << 29
_NUMBER_AT: Final = ST_DEV.bit_length()


def repeated(top: Mount, below: list[Mount]) -> list[Mount]:
    """Return those of the mounts `below` that show a file system shown elsewhere in the source."""
    shown = {top.device}
    found = []
    for mount in sorted(below, key=lambda mount: mount.mountpoint):
        if mount.device in shown:
            found.append(mount)
        shown.add(mount.device)
    return found


def open_places(root_fd: int, paths: Iterable[str]) -> dict[int, int]:
    """Return numbers of mounts, and descriptors of their roots, which the caller owns.

    A mount at the same path has the same number whenever the source is opened.

    Args:
        root_fd: the source.
        paths: where they are, relative to it.
    """
    found: dict[int, int] = {}
    top = mount_id(root_fd)
    for path in paths:
        try:
            fd = open_beneath(root_fd, path, os.O_PATH)
        except OSError as error:
            # It is hidden by another mount, or was unmounted meanwhile.
            logger.debug("%s is not visible: %s", path, error.strerror)
            continue
        if mount_id(fd) == top:
            os.close(fd)
            continue
        number = zlib.crc32(os.fsencode(path)) % _NUMBERS + 1
        while number in found:
            number += 1
        found[number] = fd
    return found


class Places:
    """Says on which mount an object is."""

    def __init__(self, roots: dict[int, int]) -> None:
        """Take numbers of mounts and descriptors of their roots, which stay open."""
        self._numbers = {mount_id(fd): number for number, fd in roots.items()}
        statuses = map(os.fstat, roots.values())
        self._roots = {(status.st_dev, status.st_ino) for status in statuses}

    def dev(self, parent: Directory, dir_fd: int, name: bytes, status: stat_result) -> int:
        """Return `Inode.dev` of what `name` in `parent` is.

        Args:
            dir_fd: a descriptor of `parent`.
            status: of what was found.

        Raises:
            OSError: ESTALE if `name` is something else by now.
        """
        identity = (status.st_dev, status.st_ino)
        if identity in self._roots:
            mount, *now = mount_of_entry(dir_fd, name)
            if tuple(now) != identity:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)
            if mount in self._numbers:
                return self._numbers[mount] << _NUMBER_AT | status.st_dev
        return parent.beside(status.st_dev)
