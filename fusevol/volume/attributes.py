"""Attributes: getattr, setattr, statfs."""

import os
import stat
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from os import stat_result
from typing import Final

from fusevol.inodes.objects import Inode, OpenFile
from fusevol.linux.files import descriptor_path, fchown, futimens
from fusevol.volume.acting import (
    CHANGE_CONTENT,
    CHMOD,
    CHOWN,
    CHOWN_NOTHING,
    SET_ID,
    Client,
)
from fusevol.volume.volume import Volume


@dataclass(slots=True)
class Changes:
    """What a setattr changes; None leaves a thing as it is. Times are in nanoseconds."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


_NOTHING: Final = Changes()


def getattr(volume: Volume, inode: Inode) -> stat_result:
    """Return the attributes of `inode`."""
    return volume.descriptors.status(inode)


def setattr(
    volume: Volume, inode: Inode, changes: Changes, file: OpenFile | None, client: Client
) -> stat_result:
    """Change attributes; return all of them as they are afterwards.

    Args:
        file: the open file the client named (ftruncate(2)), if any.
        client: the thread that asks for it.
    """
    fd = volume.descriptors.pin(inode)
    path = descriptor_path(fd)
    acting_as = volume.acting.as_client
    if changes.uid is not None or changes.gid is not None:
        with acting_as(CHOWN, client, os.fstat(fd), changes.gid):
            fchown(fd, changes.uid, changes.gid)
    elif changes == _NOTHING:
        # Before a write to the page cache the kernel sends the same, and the write does it then.
        with suppress(PermissionError), acting_as(CHOWN_NOTHING, client, os.fstat(fd)):
            fchown(fd, None, None)
    if changes.mode is not None:
        mode = changes.mode & 0o7777
        with acting_as(CHMOD, client) if mode & stat.S_ISGID else nullcontext():
            os.chmod(path, mode)
        if mode & SET_ID:
            volume.set_id_bits_appeared(inode)
    if changes.size is not None:
        target = path if file is None or not file.writable else file.fd
        with acting_as(CHANGE_CONTENT, client, os.fstat(fd)):
            os.truncate(target, changes.size)
    if changes.atime_ns is not None or changes.mtime_ns is not None:
        futimens(fd, changes.atime_ns, changes.mtime_ns)
    return os.fstat(fd)


def statfs(volume: Volume, inode: Inode) -> os.statvfs_result:
    """Return the state of the file system that `inode` is on."""
    return os.fstatvfs(volume.descriptors.pin(inode))
