"""The program that this process executes, kept from being changed by a container.

The first process of a container is this program, an interpreter of the host, until it executes the
command. What it executes can be /proc/self/exe, directly or as interpreter of a script in the
image: that would have the container open a file of the host, by a mount that can be written to
(CVE-2019-5736 of runc).
"""

import os
import sys
from typing import Final

from fusevol.errors import FusevolError
from fusevol.linux import mounts
from fusevol.linux.mountinfo import mounts as mount_table

_PROGRAM: Final = "/proc/self/exe"
_AGAIN: Final = "FUSEVOL_EXECUTED_AGAIN"


def execute_from_read_only_mount() -> None:
    """Execute this program anew from a read-only copy of its mount; return if that is done.

    To be called before anything else is: nothing but the command line and the environment stays.

    Raises:
        FusevolError: it cannot be done.
    """
    again = os.environ.pop(_AGAIN, None)
    if os.statvfs(_PROGRAM).f_flag & os.ST_RDONLY:
        return
    try:
        if again:
            raise OSError(0, "it is not read-only")
        program = _open_read_only()
        os.execve(program, sys.orig_argv, {**os.environ, _AGAIN: "1"})
    except OSError as error:
        raise FusevolError(
            f"{os.path.realpath(_PROGRAM)} cannot be kept from being changed by the container: "
            f"{error.strerror}"
        ) from None


def _open_read_only() -> int:
    """Return a descriptor of the program in a read-only copy of its mount, attached nowhere."""
    program = os.open(_PROGRAM, os.O_PATH | os.O_CLOEXEC)
    mountpoint = _mountpoint(program)
    # The whole mount, so that the program finds its libraries if it looks beside itself.
    copy = mounts.open_tree(mountpoint)
    mounts.set_attributes(copy, mounts.MOUNT_ATTR_RDONLY, mounts.MS_PRIVATE)
    below = os.path.relpath(os.readlink(_PROGRAM), mountpoint)
    same = os.open(below, os.O_PATH | os.O_CLOEXEC, dir_fd=copy)
    if not os.path.samestat(os.fstat(program), os.fstat(same)):
        raise OSError(0, "it was replaced")
    return same


def _mountpoint(fd: int) -> str:
    """Return where the mount of what a descriptor refers to is."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        fields = dict(line.split(":\t", 1) for line in file.read().splitlines())
    for mount in mount_table():
        if mount.mount_id == int(fields["mnt_id"]):
            return mount.mountpoint
    raise OSError(0, "its mount is not in this namespace")
