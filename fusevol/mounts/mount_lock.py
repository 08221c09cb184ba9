"""The lock under which a place is mounted on."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from fusevol.errors import FusevolError
from fusevol.mounts.registry import file_name, runtime_directory


@contextlib.contextmanager
def alone_at(mountpoint: str) -> Iterator[None]:
    """Be the only process of this user that makes a mount at a place inside the block.

    The kernel puts one mount on another. The lower one would serve nobody and be known to nobody.

    Args:
        mountpoint: resolved. What is mounted there has to be looked at inside the block.

    Raises:
        FusevolError: another process is at it. It may wait for its source, so it is not waited for.
    """
    path = os.path.join(runtime_directory(), file_name(mountpoint) + ".mounting")
    try:
        fd = _lock(path)
    except BlockingIOError:
        raise FusevolError(
            f"cannot mount on {mountpoint}: another process is mounting there right now; "
            f"`fusevol status` shows when it is done"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(fd)


def _lock(path: str) -> int:
    """Return the descriptor of a locked file at a path, made if it is missing.

    Raises:
        BlockingIOError: another process has it locked.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that had it locked may have removed it just before.
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
