"""Extended attributes, POSIX ACLs among them (xattr(7), acl(5)).

They are reached by way of /proc/self/fd, whose links lead to the very object, also to a symbolic
link itself.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from fusevol.inodes.objects import Inode
from fusevol.linux.files import descriptor_path
from fusevol.recovery.journal import Entry
from fusevol.volume import idempotency
from fusevol.volume.acting import LIST_NAMES, SET_ACL, Client
from fusevol.volume.volume import Volume

_ACCESS_LIST: Final = b"system.posix_acl_access"
_TRUSTED: Final = "trusted."


def getxattr(volume: Volume, inode: Inode, name: bytes) -> bytes:
    """Return the value of an attribute."""
    return os.getxattr(descriptor_path(volume.descriptors.pin(inode)), name)


def setxattr(volume: Volume, inode: Inode, name: bytes, value: bytes, client: Client) -> None:
    """Set an attribute."""
    fd = volume.descriptors.pin(inode)
    with _changing(volume, fd, name, client):
        os.setxattr(descriptor_path(fd), name, value)


def listxattr(volume: Volume, inode: Inode, client: Client) -> list[bytes]:
    """Return the names of all attributes that the client may see."""
    path = descriptor_path(volume.descriptors.pin(inode))
    names = os.listxattr(path)
    if any(name.startswith(_TRUSTED) for name in names):
        with volume.acting.as_client(LIST_NAMES, client):
            names = os.listxattr(path)
    return [os.fsencode(name) for name in names]


def removexattr(volume: Volume, inode: Inode, name: bytes, client: Client, entry: Entry) -> None:
    """Remove an attribute."""
    fd = volume.descriptors.pin(inode)
    path = descriptor_path(fd)
    if not idempotency.dropped_attribute(entry, path, name):
        with _changing(volume, fd, name, client):
            os.removexattr(path, name)
        entry.done()


def _changing(volume: Volume, fd: int, name: bytes, client: Client) -> AbstractContextManager[None]:
    if name != _ACCESS_LIST:
        return nullcontext()
    return volume.acting.as_client(SET_ACL, client, os.fstat(fd))
