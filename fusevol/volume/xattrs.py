"""Extended attributes, POSIX ACLs among them (xattr(7), acl(5)).

They are reached by way of /proc/self/fd, whose links lead to the very object, also to a symbolic
link itself.
"""

import os

from fusevol.inodes.objects import Inode
from fusevol.linux.files import descriptor_path
from fusevol.recovery.journal import Entry
from fusevol.volume import idempotency
from fusevol.volume.volume import Volume


def getxattr(volume: Volume, inode: Inode, name: bytes) -> bytes:
    """Return the value of an attribute."""
    return os.getxattr(descriptor_path(volume.descriptors.pin(inode)), name)


def setxattr(volume: Volume, inode: Inode, name: bytes, value: bytes) -> None:
    """Set an attribute."""
    os.setxattr(descriptor_path(volume.descriptors.pin(inode)), name, value)


def listxattr(volume: Volume, inode: Inode) -> list[bytes]:
    """Return the names of all attributes."""
    return [
        os.fsencode(name) for name in os.listxattr(descriptor_path(volume.descriptors.pin(inode)))
    ]


def removexattr(volume: Volume, inode: Inode, name: bytes, entry: Entry) -> None:
    """Remove an attribute."""
    path = descriptor_path(volume.descriptors.pin(inode))
    if not idempotency.dropped_attribute(entry, path, name):
        os.removexattr(path, name)
        entry.done()
