"""The root file system of a container: put together, filled, and made the root.

Runs in the first process of the container, in a mount namespace of its own, before it executes the
command. What an image holds is not trusted: every place is looked up inside of its root
(`binding.bind`), and what is mounted there is reached by descriptor.
"""

import errno
import os
import stat
from collections.abc import Sequence
from typing import Final, NamedTuple

from fusevol.binding.bind import bind, open_destination
from fusevol.errors import FusevolError
from fusevol.linux import mounts
from fusevol.linux.files import descriptor_path, open_beneath
from fusevol.linux.namespaces import pivot_root

_NO_FILES: Final = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC

_DEVICES: Final = {
    "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9),
    "tty": (5, 0),
}  # fmt: skip
_LINKS: Final = {
    "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
}  # fmt: skip

_MASKED: Final = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
_READ_ONLY: Final = (
    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
)  # fmt: skip
"""What other engines keep from containers (moby, oci/defaults.go)."""


class Bind(NamedTuple):
    """A copy of a mount, attached nowhere, and where it goes."""

    tree_fd: int
    destination: str
    read_only: bool
    is_file: bool


def mount_overlay(lowers: Sequence[str], upper: str, work: str, target: str) -> None:
    """Mount the root file system of a container, whose changes go to `upper`.

    The upper directory holds changes in their plain form only, which an image can be made of.

    Raises:
        FusevolError: overlayfs refuses.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    fds = [os.open(path, flags) for path in (upper, work, *lowers)]
    try:
        # Such paths are short, for all have to fit into one page, and need no escapes.
        upper_path, work_path, *lower_paths = map(descriptor_path, fds)
        data = (
            f"lowerdir={':'.join(lower_paths)},upperdir={upper_path},workdir={work_path},"
            f"redirect_dir=off,metacopy=off,index=off"
        )
        if len(data) >= os.sysconf("SC_PAGE_SIZE"):
            raise FusevolError(
                f"the image has too many layers ({len(lowers)}) for one mount; flatten it"
            )
        mounts.mount("overlay", target, "overlay", mounts.MS_NODEV, data)
    except OSError as error:
        raise FusevolError(f"the root file system cannot be mounted: {error.strerror}") from None
    finally:
        for fd in fds:
            os.close(fd)


def fill(root_fd: int, binds: Sequence[Bind]) -> None:
    """Mount /proc, /sys, /dev and the volumes inside the root.

    Raises:
        FusevolError: something cannot be mounted where it should be.
    """
    _mount(root_fd, "/proc", "proc", _NO_FILES, "")
    _mount(root_fd, "/sys", "sysfs", _NO_FILES | mounts.MS_RDONLY, "")
    _mount(root_fd, "/dev", "tmpfs", mounts.MS_NOSUID, "mode=755,size=64k")
    _make_devices(root_fd)
    _mount(root_fd, "/dev/pts", "devpts", mounts.MS_NOSUID | mounts.MS_NOEXEC,
           "newinstance,ptmxmode=0666,mode=0620,gid=5")  # fmt: skip
    _mount(root_fd, "/dev/shm", "tmpfs", _NO_FILES, "mode=1777,size=64m")
    _mount(root_fd, "/dev/mqueue", "mqueue", _NO_FILES, "")
    for one in sorted(binds, key=lambda one: one.destination.count("/")):
        bind(one.tree_fd, root_fd, one.destination, one.read_only, one.is_file)
        os.close(one.tree_fd)


def enter(root_fd: int) -> None:
    """Make the root the root of this mount namespace; nothing of the old one stays in reach."""
    os.fchdir(root_fd)
    pivot_root(".", ".")
    mounts.umount(".", mounts.MNT_DETACH)
    os.chdir("/")


def protect() -> None:
    """Hide and write-protect what in /proc and /sys concerns the host; and /dev.

    A container may make device nodes (CAP_MKNOD), and /dev is its only file system where they could
    be opened: all others are nodev.
    """
    flags = mounts.MS_BIND | mounts.MS_REMOUNT | mounts.MS_RDONLY | mounts.MS_NOSUID
    mounts.mount("none", "/dev", "", flags | mounts.MS_NOEXEC, "")
    for path in _READ_ONLY:
        if os.path.exists(path):
            _protect_one(path)
    for path in _MASKED:
        try:
            is_directory = stat.S_ISDIR(os.lstat(path).st_mode)
        except FileNotFoundError:
            continue
        if is_directory:
            mounts.mount("tmpfs", path, "tmpfs", _NO_FILES | mounts.MS_RDONLY, "size=0")
        else:
            mounts.mount("/dev/null", path, "", mounts.MS_BIND, "")


def _protect_one(path: str) -> None:
    mounts.mount(path, path, "", mounts.MS_BIND | mounts.MS_REC, "")
    flags = mounts.MS_BIND | mounts.MS_REMOUNT | mounts.MS_RDONLY | _NO_FILES
    mounts.mount("none", path, "", flags, "")


def _mount(root_fd: int, path: str, fstype: str, flags: int, data: str) -> None:
    try:
        fd = open_destination(root_fd, path, False, [])
        try:
            # A link would have what is protected by its path be mounted elsewhere.
            os.close(open_beneath(root_fd, path.lstrip("/"), os.O_PATH))
            mounts.mount(fstype, descriptor_path(fd), fstype, flags, data)
        finally:
            os.close(fd)
    except OSError as error:
        why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise FusevolError(f"{path} of the container: {why}") from None


def _make_devices(root_fd: int) -> None:
    """Make the devices, in the tmpfs that was just mounted."""
    dev = open_destination(root_fd, "/dev", False, [])
    try:
        for name, (major, minor) in _DEVICES.items():
            os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)
            os.chmod(f"/proc/self/fd/{dev}/{name}", 0o666)
        for name, target in _LINKS.items():
            os.symlink(target, name, dir_fd=dev)
    finally:
        os.close(dev)
