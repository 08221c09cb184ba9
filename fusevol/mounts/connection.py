"""One FUSE connection, held by its directory in fusectl.

The number of a connection is the minor number of its device, and goes to another file system as
soon as it is free. What is opened below the directory is of this very connection, whoever has the
number meanwhile: when the connection ends, the kernel takes its files away (fs/fuse/control.c).
"""

import logging
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from fusevol.errors import FusevolError, NotPermittedError
from fusevol.linux import mounts

logger = logging.getLogger(__name__)

_CONNECTIONS: Final = "/sys/fs/fuse/connections"
"""Where fusectl shows each FUSE mount, by the minor number of its device (fuse.rst)."""


class Connection:
    """A connection.

    Attributes:
        fd: its directory in fusectl (O_PATH).
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def of(cls, device: int, is_still: Callable[[], bool]) -> "Connection":
        """Return the connection of a file system.

        Args:
            device: st_dev of its files.
            is_still: says whether the device is still that of this file system. Called when the
                directory is open, since the number may have become another's before.

        Raises:
            NotPermittedError: this user has no access to fusectl; says which users have.
            FusevolError: it is not there (any more).
        """
        try:
            with _connections() as directory:
                fd = os.open(
                    str(os.minor(device)), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC,
                    dir_fd=directory,
                )  # fmt: skip
        except FileNotFoundError:
            raise FusevolError("the connection is no longer in fusectl") from None
        except PermissionError:
            raise NotPermittedError("only root or the user who mounted it may use force") from None
        except OSError as error:
            raise FusevolError(f"fusectl cannot be opened: {error.strerror}") from None
        if not is_still():
            os.close(fd)
            raise FusevolError("the connection has ended")
        return cls(fd)

    def is_there(self) -> bool:
        """Return whether it has not ended; one that was aborted is there until it is unmounted."""
        try:
            fd = os.open("waiting", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        with open(fd, "rb", buffering=0) as file:
            # Another who has it open keeps the name of an ended one, but nothing in it.
            return bool(file.read(1))

    def abort(self) -> bool:
        """End the service of the file system, even if it is in use or mounted elsewhere.

        Calls that wait for an answer get ECONNABORTED, later ones ENOTCONN. Asks nobody, and works
        when the server was stopped, or waits for something itself. Returns whether it was there.

        Raises:
            NotPermittedError: this user may not; says which users may.
        """
        try:
            fd = os.open("abort", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        except PermissionError:
            raise NotPermittedError("only root or the user who mounted it may use force") from None
        with open(fd, "wb", buffering=0) as file:
            file.write(b"1")
        return True

    def close(self) -> None:
        """Let it go."""
        os.close(self.fd)


def is_connected(fuse_fd: int, device: int) -> bool:
    """Return whether the file system of a /dev/fuse is there, was not aborted, and has this st_dev.

    As long as it is connected, its number is no other's. Which number that is, Linux 6.17 tells;
    before, the caller has to know.
    """
    poll = select.poll()
    poll.register(fuse_fd, 0)
    if poll.poll(0):
        return False
    with open(f"/proc/self/fdinfo/{fuse_fd}") as file:
        said = dict(line.rstrip().split(":\t", 1) for line in file if ":\t" in line)
    number = str(os.minor(device))
    return said.get("fuse_connection", number) == number


def connection_of(fuse_fd: int, device: int) -> Connection | None:
    """Return the connection of a /dev/fuse; None if it has ended or fusectl cannot be had.

    Args:
        device: st_dev of its files.
    """
    try:
        return Connection.of(device, lambda: is_connected(fuse_fd, device))
    except FusevolError as error:
        logger.debug("connection %d cannot be held: %s", os.minor(device), error)
        return None


@contextmanager
def _connections() -> Iterator[int]:
    """Give a descriptor of fusectl's directory, which need not be mounted for root."""
    try:
        fd = mounts.mount_nowhere("fusectl")
    except OSError:
        if not os.path.ismount(_CONNECTIONS):
            raise NotPermittedError(
                f"without root, force requires {_CONNECTIONS}, which is not mounted here; use "
                f"--lazy, or run it as root"
            ) from None
        fd = os.open(_CONNECTIONS, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
