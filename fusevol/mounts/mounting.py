"""Making the FUSE mount: by mount(2) as root, by fusermount3 without."""

import array
import errno
import logging
import os
import shutil
import socket
import stat
import subprocess
from typing import Final

from fusevol.errors import FusevolError, MountError, NotPermittedError, UnsupportedError
from fusevol.linux import mounts
from fusevol.mounts.connection import is_connected
from fusevol.mounts.registry import FSTYPE
from fusevol.options.config import MountConfig, flag_words

FUSE_DEVICE: Final = "/dev/fuse"
_FUSERMOUNT_S: Final = 30.0
_FUSERMOUNT_FLAGS: Final = mounts.MS_RDONLY | mounts.MS_NOEXEC | mounts.MS_NOATIME
"""Those that fusermount3 knows; nosuid and nodev it sets by itself."""
_READAHEAD_KIB: Final = 1024
_INIT_BYTES: Final = 1 << 17
"""The kernel refuses reads with less room than its largest header (dev.c, fuse_dev_do_read)."""

logger = logging.getLogger(__name__)


def mount(config: MountConfig, single_file: bool, flags: int = 0) -> int:
    """Mount and return the descriptor of /dev/fuse; the kernel's INIT request waits there.

    Args:
        flags: flags of mount(2) besides those of `config`.

    Raises:
        MountError, UnsupportedError, NotPermittedError: it cannot be mounted, and why.
    """
    if os.geteuid() == 0:
        return _mount_as_root(config, single_file, config.flags | flags)
    return _mount_by_fusermount(config, config.flags | flags)


def mount_again(config: MountConfig, fuse_fd: int, single_file: bool, flags: int) -> None:
    """Mount a file system once more that was unmounted and lives on elsewhere.

    It stays one file system, with one server: what is open on it, and its log, go on. The kernel
    finds it by its /dev/fuse (Linux 5.15).

    Args:
        flags: flags of mount(2) besides those of `config`.

    Raises:
        OSError: ENOTCONN if it has ended, EINVAL on older kernels, EPERM without root.
    """
    if os.geteuid() != 0:
        # fusermount3 takes no descriptor that is in use.
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), config.mountpoint)
    data = _mount_data(config, fuse_fd, single_file)
    mounts.mount(config.source, config.mountpoint, FSTYPE, config.flags | flags, data)
    mounts.make_shared(config.mountpoint)


def read_init(fuse_fd: int) -> bytes:
    """Return the kernel's INIT request."""
    return os.read(fuse_fd, _INIT_BYTES)


def set_readahead(device: int, fuse_fd: int) -> None:
    """Let the kernel ask for as much at once as one READ can carry; its default is 128 KiB.

    A request costs the same whatever it carries. Without root the default stays.

    Args:
        device: st_dev of the files of the mount.
        fuse_fd: its /dev/fuse.
    """
    path = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    try:
        with open(path, "w") as file:
            # The number may have become another's before; what is open stays the same.
            if is_connected(fuse_fd, device):
                file.write(str(_READAHEAD_KIB))
    except OSError as error:
        logger.debug("cannot set %s: %s", path, error.strerror)


def open_device() -> int:
    """Open /dev/fuse.

    Raises:
        UnsupportedError: there is none, or the kernel has no FUSE.
        NotPermittedError: this process may not use it.
    """
    try:
        return os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UnsupportedError(
            f"{FUSE_DEVICE} does not exist; load the kernel module (modprobe fuse), or give the "
            f"container the device"
        ) from None
    except PermissionError:
        raise NotPermittedError(
            f"{FUSE_DEVICE} cannot be opened: permission denied; it should have mode 0666, and a "
            f"container needs it as a device"
        ) from None
    except OSError as error:
        raise UnsupportedError(f"{FUSE_DEVICE} cannot be opened: {error.strerror}") from None


def _mount_as_root(config: MountConfig, single_file: bool, flags: int) -> int:
    fd = open_device()
    data = _mount_data(config, fd, single_file)
    try:
        mounts.mount(config.source, config.mountpoint, FSTYPE, flags, data)
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EPERM:
            raise NotPermittedError(
                f"cannot mount on {config.mountpoint}: not permitted; this requires CAP_SYS_ADMIN"
            ) from None
        raise MountError(f"cannot mount on {config.mountpoint}: {error.strerror}") from None
    return fd


def _mount_data(config: MountConfig, fd: int, single_file: bool) -> str:
    mode = stat.S_IFREG if single_file else stat.S_IFDIR
    data = f"fd={fd},rootmode={mode:o},user_id=0,group_id=0,default_permissions"
    return data + (",allow_other" if config.allow_other else "")


def _mount_by_fusermount(config: MountConfig, flags: int) -> int:
    """Let the set-user-ID helper mount; it sends the descriptor back (fusermount3(1))."""
    program = shutil.which("fusermount3")
    if program is None:
        raise UnsupportedError(
            "mounting without root requires fusermount3, which is not installed; "
            "install the package fuse3, or mount as root"
        )
    words = [f"fsname={_escaped(config.source)}", "subtype=fusevol", "default_permissions"]
    if flags & mounts.MS_NOSYMFOLLOW:
        raise UnsupportedError(
            f"source {config.source} is on a file system where symbolic links are not followed "
            f"(nosymfollow), and fusermount3 cannot set this; mount as root"
        )
    words += ["rw", *flag_words(flags & _FUSERMOUNT_FLAGS)]
    if config.allow_other:
        words.append("allow_other")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [program, "-o", ",".join(words), "--", config.mountpoint],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
        theirs.close()
        fds = array.array("i")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(fds.itemsize))
        for _level, _kind, content in ancillary:
            fds.frombytes(content[: fds.itemsize])
    if done.returncode != 0 or not fds:
        said = os.fsdecode(done.stderr).strip().replace("\n", "; ") or "no reason given"
        raise MountError(f"cannot mount on {config.mountpoint}: {said}")
    os.set_inheritable(fds[0], False)
    return fds[0]


def unmount(mountpoint: str, lazily: bool = False) -> None:
    """Unmount, as root or by fusermount3. Asks the file system nothing, so it never waits for it.

    Raises:
        OSError: EBUSY if it is in use and not `lazily`; EINVAL if it is not mounted.
        FusevolError: fusermount3 refused.
    """
    if os.geteuid() == 0:
        flags = mounts.MNT_DETACH if lazily else 0
        mounts.umount(mountpoint, mounts.UMOUNT_NOFOLLOW | flags)
        return
    command = ["fusermount3", "-u", *(["-z"] if lazily else []), "--", mountpoint]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_FUSERMOUNT_S, check=False)
    except subprocess.TimeoutExpired:
        raise FusevolError(f"cannot unmount {mountpoint}: fusermount3 hangs") from None
    if done.returncode != 0:
        said = os.fsdecode(done.stderr).strip()
        if "busy" in said.lower():
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), mountpoint)
        raise FusevolError(f"cannot unmount {mountpoint}: {said}")


def _escaped(value: str) -> str:
    """Return a mount option's value as fusermount3 reads it."""
    return value.replace("\\", "\\\\").replace(",", "\\,")
