"""The root file system of a container: layers, and what the container changes, put together."""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from fusevol.errors import FusevolError
from fusevol.linux import mounts
from fusevol.linux.files import descriptor_path

_KERNELS: Final = ("proc", "sys", "dev")


def check_places(root_fd: int) -> None:
    """Make sure that what is protected by its path will be found there (/proc/kcore and others).

    Raises:
        FusevolError: the image has a symbolic link in place of /proc, /sys or /dev.
    """
    for name in _KERNELS:
        with suppress(FileNotFoundError):
            if stat.S_ISLNK(os.lstat(name, dir_fd=root_fd).st_mode):
                raise FusevolError(f"/{name} of the container: it is a symbolic link")


def mount_overlay(lowers: Sequence[str], upper: str, work: str, target: str) -> None:
    """Mount the root file system of a container, whose changes go to `upper`.

    The upper directory holds changes in their plain form only, which an image can be made of. The
    mount is nodev: a container may make device nodes (CAP_MKNOD), and none of them can be opened.

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
        raise FusevolError(f"cannot mount the root file system: {error.strerror}") from None
    finally:
        for fd in fds:
            os.close(fd)
