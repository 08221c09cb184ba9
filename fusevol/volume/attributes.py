"""Attributes: getattr, setattr, statfs."""

import os
from dataclasses import dataclass
from os import stat_result

from fusevol.inodes.objects import Inode, OpenFile
from fusevol.linux.credentials import keeping_set_id_bits
from fusevol.linux.files import descriptor_path, fchown, futimens
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


def getattr(volume: Volume, inode: Inode) -> stat_result:
    """Return the attributes of `inode`."""
    return volume.descriptors.status(inode)


def setattr(
    volume: Volume, inode: Inode, changes: Changes, file: OpenFile | None, keeps_set_id: bool
) -> stat_result:
    """Change attributes; return all of them as they are afterwards.

    Args:
        file: the open file the client named (ftruncate(2)), if any.
        keeps_set_id: the caller may truncate without clearing set-ID bits (CAP_FSETID).
    """
    fd = volume.descriptors.pin(inode)
    path = descriptor_path(fd)
    if changes.uid is not None or changes.gid is not None:
        fchown(fd, changes.uid, changes.gid)
    if changes.mode is not None:
        _chmod(volume, path, changes.mode & 0o7777)
    if changes.size is not None:
        target = path if file is None or not file.writable else file.fd
        if keeps_set_id and volume.privileged:
            with keeping_set_id_bits():
                os.truncate(target, changes.size)
        else:
            os.truncate(target, changes.size)
    if changes.atime_ns is not None or changes.mtime_ns is not None:
        futimens(fd, changes.atime_ns, changes.mtime_ns)
    return os.fstat(fd)


def _chmod(volume: Volume, path: str, mode: int) -> None:
    if mode & 0o2000 and volume.privileged:
        # The kernel has taken the bit away already if the caller may not set it.
        with keeping_set_id_bits():
            os.chmod(path, mode)
    else:
        os.chmod(path, mode)


def statfs(volume: Volume, inode: Inode) -> os.statvfs_result:
    """Return the state of the file system that `inode` is on."""
    return os.fstatvfs(volume.descriptors.pin(inode))
