"""Binding a volume into the root file system of a container.

The destination is looked up by descriptors inside the container's root, so that no symbolic link
in an image, and none that a running container puts in at the right moment, leads anywhere else.
"""

import errno
import os
import stat
from typing import Final

from fusevol.errors import FusevolError, NotPermittedError, UnsupportedError
from fusevol.linux import mounts
from fusevol.linux.files import open_in_root
from fusevol.linux.mountinfo import mount_at

_TRIES: Final = 100
"""How often what is missing is created again, if somebody removes it at once."""

_KINDS: Final = {errno.EPERM: NotPermittedError, errno.ENOSYS: UnsupportedError}


def open_subpath(mountpoint: str, subpath: str) -> int:
    """Return a copy of a mount, attached nowhere, whose root is `subpath` of it.

    Nothing leads out of the volume on the way: no symbolic link and no "..".

    Raises:
        FusevolError: there is no such mount, or nothing below it is called so.
    """
    if mount_at(mountpoint) is None:
        # What is below the mount point shall never be taken for the volume.
        raise FusevolError(
            f"{mountpoint} is not mounted here: it was unmounted, or fusevol serve runs in another "
            f"mount namespace (Private*= of its unit?); run it in the host's mount namespace"
        )
    try:
        if not subpath:
            return mounts.open_tree(mountpoint)
        root = os.open(mountpoint, os.O_PATH | os.O_CLOEXEC)
        try:
            fd = open_in_root(root, subpath, os.O_PATH)
        finally:
            os.close(root)
        try:
            return mounts.open_tree("", fd)
        finally:
            os.close(fd)
    except OSError as error:
        what = os.path.join(mountpoint, subpath) if subpath else mountpoint
        kind = _KINDS.get(error.errno or 0, FusevolError)
        raise kind(f"{what} cannot be bound: {error.strerror}") from None


def bind(tree_fd: int, root_fd: int, destination: str, read_only: bool, is_file: bool) -> list[str]:
    """Attach the mount `tree_fd` at `destination` inside the root directory `root_fd`.

    The mount is nosuid and nodev, and private: nothing that is mounted on it shows elsewhere.
    Missing directories are made with mode 0755, a missing file empty with mode 0644.

    Args:
        tree_fd: a copy that is attached nowhere (`linux.mounts.open_tree`); still to be closed.
        root_fd: in the mount namespace of this process.

    Returns:
        The paths that were made.

    Raises:
        FusevolError: it cannot be bound there, and why.
    """
    attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV
    if read_only:
        attributes |= mounts.MOUNT_ATTR_RDONLY
    made: list[str] = []
    try:
        mounts.set_attributes(tree_fd, attributes, mounts.MS_PRIVATE)
        target = open_destination(root_fd, destination, is_file, made)
        try:
            mounts.move_mount(tree_fd, target)
        finally:
            os.close(target)
    except OSError as error:
        kind = _KINDS.get(error.errno or 0, FusevolError)
        hint = "; choose a place that already exists" if error.errno == errno.EROFS else ""
        raise kind(f"cannot bind at {destination}: {error.strerror}{hint}") from None
    return made


def open_destination(root_fd: int, destination: str, is_file: bool, made: list[str]) -> int:
    """Return an O_PATH descriptor of `destination` inside `root_fd`; make what is missing.

    Raises:
        OSError: a part of it is not a directory, or it is of the other kind than `is_file` says.
    """
    parts = destination.strip("/").split("/")
    for count in range(1, len(parts)):
        os.close(_open_or_make(root_fd, "/".join(parts[:count]), False, made))
    fd = _open_or_make(root_fd, "/".join(parts), is_file, made)
    if stat.S_ISDIR(os.fstat(fd).st_mode) == is_file:
        os.close(fd)
        number = errno.EISDIR if is_file else errno.ENOTDIR
        raise OSError(number, os.strerror(number), destination)
    return fd


def _open_or_make(root_fd: int, path: str, is_file: bool, made: list[str]) -> int:
    flags = os.O_PATH if is_file else os.O_PATH | os.O_DIRECTORY
    for _ in range(_TRIES):
        try:
            return open_in_root(root_fd, path, flags)
        except FileNotFoundError:
            if _make(root_fd, path, is_file):
                made.append("/" + path)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def _make(root_fd: int, path: str, is_file: bool) -> bool:
    """Make `path`, whose parent is there; return whether it was missing."""
    parent, _, name = path.rpartition("/")
    parent_fd = open_in_root(root_fd, parent or "/", os.O_PATH | os.O_DIRECTORY)
    try:
        if is_file:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=parent_fd))
        else:
            os.mkdir(name, 0o755, dir_fd=parent_fd)
    except FileExistsError:
        # A symbolic link that leads nowhere is there, and yet is not found.
        entry = os.lstat(name, dir_fd=parent_fd)
        if stat.S_ISLNK(entry.st_mode):
            raise OSError(errno.ENOENT, "it is a broken symbolic link", path) from None
        return False
    finally:
        os.close(parent_fd)
    return True
