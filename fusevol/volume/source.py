"""The source: opening it, and the mounts that it has.

Knows which mounts there are from the mount table of this process, which asks no file system.
"""

import errno
import logging
import os
from typing import Final, NamedTuple

from fusevol.errors import FusevolError, NotFoundError, NotPermittedError
from fusevol.linux import credentials
from fusevol.linux.files import descriptor_path, open_beneath
from fusevol.linux.mountinfo import Mount, mount_of, mounts_below
from fusevol.linux.mounts import clone_tree, set_atime
from fusevol.options.config import MountConfig, flag_words, flags_in, source_flags
from fusevol.volume.places import open_places, repeated

logger = logging.getLogger(__name__)

_TRIES: Final = 10
"""How often a copy is repeated until it is of the mounts that were looked at."""


class Source(NamedTuple):
    """A source that is open.

    Attributes:
        fd: an O_PATH descriptor of it, in a private copy of its mounts if that is possible.
        flags: what a mount of it gets besides its own flags of mount(2).
        places: numbers of mounts in it, and descriptors of their roots (`volume.places`).
    """

    fd: int
    flags: int
    places: dict[int, int]


def open_source(config: MountConfig, privileged: bool) -> Source:
    """Open what is to be served.

    Args:
        privileged: whether this process may act for other users.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: it cannot be opened, and why.
    """
    fd = open_path(config)
    top = mount_of(fd)
    path = os.readlink(descriptor_path(fd))
    below = _below(top, path)
    if privileged and credentials.has_capability(credentials.CAP_SYS_ADMIN):
        copy = _copy(fd, config)
        for _ in range(_TRIES):
            copied, below = below, _below(top, path)
            if copied == below:
                break
            # Something was mounted or unmounted meanwhile.
            os.close(copy)
            copy = _copy(fd, config)
        os.close(fd)
        fd = copy
    repeating = [] if top is None else repeated(top, below)
    paths = [os.path.relpath(mount.mountpoint, path) for mount in repeating]
    return Source(fd, _flags(config, top, below), open_places(fd, paths))


def _below(top: Mount | None, path: str) -> list[Mount]:
    return [] if top is None else mounts_below(top, path)


def open_path(config: MountConfig) -> int:
    """Return an O_PATH descriptor of what the path of the source leads to now.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: it cannot be opened, and why.
    """
    source = config.served_path
    try:
        fd = os.open(config.source, os.O_PATH | os.O_CLOEXEC)
        if config.subpath:
            # A user who may write to the source could put a symbolic link in its place.
            outer, fd = fd, open_beneath(fd, config.subpath, os.O_PATH)
            os.close(outer)
    except FileNotFoundError:
        raise NotFoundError(f"source {source} does not exist; create it first") from None
    except PermissionError:
        raise NotPermittedError(f"source {source} cannot be opened: permission denied") from None
    except OSError as error:
        raise FusevolError(f"source {source} cannot be opened: {error.strerror}") from None
    return fd


def _copy(fd: int, config: MountConfig) -> int:
    """Return a descriptor in a private copy of the mounts at and below `fd`, or one as it is.

    Raises:
        FusevolError: the source cannot be read at all.
    """
    source = config.served_path
    try:
        copy = clone_tree(fd)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
            raise FusevolError(f"source {source} cannot be opened: {error.strerror}") from None
        logger.warning(
            "cannot copy the mounts at %s (%s); later mounts there will show in the volume",
            source, error.strerror,
        )  # fmt: skip
        return os.dup(fd)
    if config.atime_flags:
        set_atime(copy, config.atime_flags)
    return copy


def _flags(config: MountConfig, top: Mount | None, below: list[Mount]) -> int:
    """Return the flags that the mounts of the source bring, and say where one holds for all."""
    own = 0 if top is None else flags_in(top.options)
    without = config.flags | source_flags(config, own, ())
    for mount in below:
        added = source_flags(config, own, [flags_in(mount.options)]) & ~without
        for word in flag_words(added):
            logger.warning(
                "%s: the whole volume is %s, because %s, which is below the source, is",
                config.mountpoint, word, mount.mountpoint,
            )  # fmt: skip
        without |= added
    return without & ~config.flags
