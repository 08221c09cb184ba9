"""Names: lookup, and all calls that make, remove or move them."""

import errno
import os
import stat
from collections.abc import Callable
from os import stat_result
from typing import Final

from fusevol.inodes.objects import NO_FD, Directory, Inode
from fusevol.linux.files import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    descriptor_path,
    renameat2,
)
from fusevol.recovery.journal import Entry
from fusevol.volume import idempotency
from fusevol.volume.acting import WHITEOUT, Client
from fusevol.volume.volume import Volume

_PIN: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def lookup(volume: Volume, parent: Directory, name: bytes) -> tuple[Inode, stat_result]:
    """Return what `name` in `parent` is, and its attributes."""
    status = os.stat(name, dir_fd=volume.descriptors.pin(parent), follow_symlinks=False)
    return volume.seen(parent, name, status), status


def mknod(
    volume: Volume,
    parent: Directory,
    name: bytes,
    mode: int,
    rdev: int,
    client: Client,
    entry: Entry,
) -> tuple[Inode, stat_result]:
    """Make a regular file, FIFO, socket or device node."""
    fd = volume.descriptors.pin(parent)
    if not idempotency.made(entry, fd, name):
        volume.acting.make(client, mode, os.mknod, name, mode, rdev, dir_fd=fd)
        entry.done()
    return _look_up_made(volume, parent, name, stat.S_IFMT(mode) or stat.S_IFREG)


def mkdir(
    volume: Volume, parent: Directory, name: bytes, mode: int, client: Client, entry: Entry
) -> tuple[Inode, stat_result]:
    """Make a directory."""
    fd = volume.descriptors.pin(parent)
    if not idempotency.made(entry, fd, name):
        # The mode's set-group-ID bit comes from the parent, not from the caller.
        volume.acting.make(client, mode & ~0o2000, os.mkdir, name, mode, dir_fd=fd)
        entry.done()
    return _look_up_made(volume, parent, name, stat.S_IFDIR)


def symlink(
    volume: Volume, parent: Directory, name: bytes, target: bytes, client: Client, entry: Entry
) -> tuple[Inode, stat_result]:
    """Make a symbolic link that says `target`."""
    fd = volume.descriptors.pin(parent)
    if not idempotency.made(entry, fd, name):
        volume.acting.make(client, 0, os.symlink, target, name, dir_fd=fd)
        entry.done()
    return _look_up_made(volume, parent, name, stat.S_IFLNK)


def link(
    volume: Volume, inode: Inode, parent: Directory, name: bytes, entry: Entry
) -> tuple[Inode, stat_result]:
    """Give `inode` another name."""
    source = descriptor_path(volume.descriptors.pin(inode))
    fd = volume.descriptors.pin(parent)
    if not idempotency.made(entry, fd, name):
        os.link(source, name, dst_dir_fd=fd, follow_symlinks=True)
        entry.done()
    return _look_up_made(volume, parent, name, inode.kind)


def _look_up_made(
    volume: Volume, parent: Directory, name: bytes, kind: int
) -> tuple[Inode, stat_result]:
    """Return what was just made, unless the host has put something else in its place.

    The kernel would take another type for a broken file system, and say EIO; after ESTALE it tries
    again.
    """
    inode, status = lookup(volume, parent, name)
    if inode.kind != kind:
        volume.inodes.drop_if_unused(inode)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)
    return inode, status


def readlink(volume: Volume, inode: Inode) -> bytes:
    """Return what the symbolic link says."""
    return os.readlink(b"", dir_fd=volume.descriptors.pin(inode))


def unlink(volume: Volume, parent: Directory, name: bytes, entry: Entry) -> None:
    """Remove a name that is not a directory's."""
    _remove(volume, parent, name, os.unlink, entry)


def rmdir(volume: Volume, parent: Directory, name: bytes, entry: Entry) -> None:
    """Remove an empty directory."""
    _remove(volume, parent, name, os.rmdir, entry)


def _remove(
    volume: Volume, parent: Directory, name: bytes, call: Callable[..., None], entry: Entry
) -> None:
    fd = volume.descriptors.pin(parent)
    inode, status = _about_to_lose(volume, parent, fd, name)
    if idempotency.took_away(entry, status):
        ino, st_dev = entry.evidence
        inode = volume.inodes.find_host(parent.beside(st_dev), ino)
    else:
        call(name, dir_fd=fd)
        entry.done()
    _lost(volume, inode, parent, name)


def rename(
    volume: Volume,
    parent: Directory,
    name: bytes,
    new_parent: Directory,
    new_name: bytes,
    flags: int,
    client: Client,
    entry: Entry,
) -> None:
    """Rename, with the flags of renameat2(2)."""
    fd = volume.descriptors.pin(parent)
    new_fd = volume.descriptors.pin(new_parent)
    replaced = None
    if not idempotency.moved(entry, fd, name, new_fd, new_name):
        if flags & RENAME_WHITEOUT:
            with volume.acting.as_client(WHITEOUT, client):
                renameat2(fd, name, new_fd, new_name, flags)
        elif flags:
            renameat2(fd, name, new_fd, new_name, flags)
        elif not _renamed_to_free_name(fd, name, new_fd, new_name):
            replaced, _ = _about_to_lose(volume, new_parent, new_fd, new_name)
            os.rename(name, new_name, src_dir_fd=fd, dst_dir_fd=new_fd)
        entry.done()
    moved = _known(volume, new_parent, new_fd, new_name)
    if replaced is not None and replaced is not moved:
        _lost(volume, replaced, new_parent, new_name)
    if moved is not None:
        volume.inodes.move(moved, new_parent, new_name)
    if flags & RENAME_EXCHANGE:
        exchanged = _known(volume, parent, fd, name)
        if exchanged is not None:
            volume.inodes.move(exchanged, parent, name)


def _renamed_to_free_name(fd: int, name: bytes, new_fd: int, new_name: bytes) -> bool:
    """Rename if nothing is replaced by it, which is the usual case and takes one call."""
    try:
        renameat2(fd, name, new_fd, new_name, RENAME_NOREPLACE)
    except OSError as error:
        # EINVAL: this file system does not say.
        if error.errno in (errno.EEXIST, errno.EINVAL):
            return False
        raise
    return True


def _known(volume: Volume, parent: Directory, dir_fd: int, name: bytes) -> Inode | None:
    try:
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return volume.find(parent, dir_fd, name, status)


def _about_to_lose(
    volume: Volume, parent: Directory, dir_fd: int, name: bytes
) -> tuple[Inode | None, stat_result | None]:
    """Pin the object that is about to lose `name`, if the kernel knows it.

    Clients may still hold it by an O_PATH descriptor or as working directory, and nothing would
    lead back to it without its name. Where clients hold so much that all descriptors would be used
    up, it is ESTALE for them.
    """
    try:
        fd = os.open(name, _PIN, dir_fd=dir_fd)
    except FileNotFoundError:
        return None, None
    status = os.fstat(fd)
    inode = volume.find(parent, dir_fd, name, status)
    if inode is None or inode.fd != NO_FD or not volume.has_room:
        os.close(fd)
    else:
        volume.descriptors.adopt(inode, fd)
    return inode, status


def _lost(volume: Volume, inode: Inode | None, parent: Directory, name: bytes) -> None:
    """Note that `name` does not lead to `inode` any more; another hard link still may."""
    if inode is not None and inode.parent is parent and inode.name == name:
        volume.inodes.remove(inode)
