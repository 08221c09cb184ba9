"""Reading directories: opendir, readdir, fsyncdir, releasedir."""

import os
from collections.abc import Iterator
from os import stat_result
from typing import Final

from fusevol.inodes.objects import UNKNOWN_POSITION, Directory, Inode, OpenDirectory
from fusevol.linux.directories import getdents
from fusevol.linux.files import descriptor_path
from fusevol.linux.filesystems import Storage
from fusevol.model import Caller
from fusevol.recovery.journal import Entry
from fusevol.volume import cookies
from fusevol.volume.volume import Volume

_READ: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def opendir(
    volume: Volume, inode: Directory, caller: Caller, uid: int, gid: int, entry: Entry
) -> OpenDirectory:
    """Open a directory for reading and enter it in `volume.directories`."""
    if entry.is_done:
        return volume.directories.get(entry.fh)
    volume.make_room()
    fd = os.open(descriptor_path(volume.descriptors.pin(inode)), _READ)
    directory = OpenDirectory(inode, fd, caller, uid, gid)
    volume.add_directory(directory)
    entry.done(directory.fh)
    return directory


def readdir(
    volume: Volume, directory: OpenDirectory, position: int
) -> Iterator[tuple[bytes, int, Inode | None, stat_result]]:
    """Yield entries from `position` on: name, position after it, inode, attributes.

    Entries are read from the host as they are asked for, so a large directory is never held as a
    whole; positions lead back to the host's, so they stay right while entries come and go, and in
    another worker (`cookies`). "." and ".." have no inode: the kernel takes no reference to them.
    The caller says by `accepted` that an entry is on its way to the kernel.
    """
    if position != directory.position or not position:
        _seek(volume, directory, position)
    dir_fd = volume.descriptors.pin(directory.inode)
    while True:
        if not directory.pending:
            entries = getdents(directory.fd)
            if not entries:
                return
            directory.pending = list(reversed(entries))
        name, after = directory.pending[-1]
        if directory.wide:
            after = cookies.cookie(after, directory.host_position)
        try:
            status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            accepted(directory, after)
            continue
        if name in (b".", b".."):
            yield name, after, None, status
        else:
            yield name, after, volume.seen(directory.inode, name, status), status


def _seek(volume: Volume, directory: OpenDirectory, position: int) -> None:
    """Go on reading at a position that a client got; 0 is the beginning."""
    fd = directory.fd
    directory.position = UNKNOWN_POSITION
    directory.pending.clear()
    if not position or directory.wide is None:
        os.lseek(fd, 0, os.SEEK_SET)
        entries = getdents(fd)
        storage = volume.storage_at(directory.inode, fd)
        # Positions that another machine gives can only be given back.
        directory.wide = (
            bool(entries) and cookies.is_wide(entries[0][1]) and storage is not Storage.REMOTE
        )
        directory.host_position = 0
        directory.pending = entries[::-1]
    if position:
        directory.pending.clear()
        directory.host_position = cookies.position(position) if directory.wide else position
        os.lseek(fd, directory.host_position, os.SEEK_SET)
    directory.position = position


def accepted(directory: OpenDirectory, position: int) -> None:
    """Note that the entry that ends at `position` was delivered."""
    _, directory.host_position = directory.pending.pop()
    directory.position = position


def fsyncdir(directory: OpenDirectory, datasync: bool) -> None:
    """Wait until the entries are on the device. Runs on any thread."""
    if datasync:
        os.fdatasync(directory.fd)
    else:
        os.fsync(directory.fd)


def releasedir(directory: OpenDirectory) -> None:
    """Close an open directory; `volume.remove_directory` then takes it out."""
    os.close(directory.fd)
