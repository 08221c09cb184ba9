"""Descriptors of host objects: few, pinned while they are needed, found again when they are not.

An O_PATH descriptor pins its object: while it is open, the inode number cannot be given to
another. Their number is bounded, so a pin that was not used for a while is given up; a file handle
then leads back to the very object, whatever became of its name. Where there are no handles
(without root, or on a file system that gives none) the last known name does, if the object found
there is still the same.
"""

import errno
import os
from collections.abc import Callable, Iterable
from os import stat_result
from typing import Final

from fusevol.inodes.objects import NO_FD, ST_DEV, Directory, Inode
from fusevol.inodes.table import InodeTable
from fusevol.linux.files import descriptor_path
from fusevol.linux.handles import name_to_handle, open_by_handle
from fusevol.recovery.open_handles import DEVICE, OpenEntries, OpenEntry

_PIN: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LONG_WAY: Final = 8
_CHANCES: Final = 3
"""More than a request takes up pins one after the other, each of which may begin a search: a rename
pins two directories and what it replaces."""


def stale(inode: Inode) -> OSError:
    """Return ESTALE for `inode`; the kernel then looks the path up again (open(2), stat(2))."""
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE), inode.name)


def describes(status: stat_result, inode: Inode) -> bool:
    """Return whether `status` can be that of `inode`, and not of what got its name or number."""
    return (
        status.st_ino == inode.host_ino
        and status.st_dev == inode.dev & ST_DEV
        and status.st_mode & 0o170000 == inode.kind
    )


class Descriptors:
    """Pins host objects and finds them again."""

    def __init__(
        self,
        inodes: InodeTable,
        root_fd: int,
        most: Callable[[], int],
        handles: bool,
        entries: OpenEntries,
        inherited: Iterable[OpenEntry],
    ) -> None:
        """Start with the root pinned.

        Args:
            inodes: its root gets `root_fd`, an O_PATH descriptor, as pin for good.
            most: returns how many pins to keep.
            handles: whether this process may open file handles (CAP_DAC_READ_SEARCH).
            entries: where descriptors are kept for a successor.
            inherited: what an earlier worker kept there.
        """
        inodes.root.fd = root_fd
        self._inodes = inodes
        self._most = most
        self._handles = handles
        self._entries = entries
        self._pinned: dict[Inode, None] = {}
        self._mount_fds: dict[int, int] = {}
        self._mount_places: dict[int, int] = {}
        self._asleep = 0
        for kept in inherited:
            if kept.kind == DEVICE:
                self._mount_fds[kept.fh], self._mount_places[kept.fh] = kept.fd, kept.at
        root = inodes.root
        if handles and isinstance(root, Directory) and root.dev not in self._mount_fds:
            self._open_mount_fd(root)

    def __len__(self) -> int:
        return len(self._pinned) + self._asleep

    def pin(self, inode: Inode) -> int:
        """Return an O_PATH descriptor of `inode`, valid until control returns to the kernel.

        Raises:
            OSError: ESTALE if the object is gone or its name leads to another one.
        """
        if inode.fd != NO_FD:
            inode.chances = _CHANCES
            return inode.fd
        chain = [inode]
        while not self._reachable(chain[-1]):
            parent = chain[-1].parent
            assert parent is not None, "the root is always pinned"
            if parent.fd != NO_FD:
                break
            chain.append(parent)
        above = None
        for link in reversed(chain):
            self._adopt(link, self._open(link))
            if above is not None and len(chain) > _LONG_WAY:
                # A way of any length must not take a descriptor for each directory at once.
                del self._pinned[above]
                self._close(above)
            above = link
        self._keep_to_limit()
        return inode.fd

    def adopt(self, inode: Inode, fd: int) -> None:
        """Make `fd`, an O_PATH descriptor of `inode`, its pin."""
        self._adopt(inode, fd)
        self._keep_to_limit()

    def _adopt(self, inode: Inode, fd: int) -> None:
        self._inodes.pin(inode, fd)
        inode.chances = _CHANCES
        self._pinned[inode] = None
        if self._handles and inode.dev not in self._mount_fds and isinstance(inode, Directory):
            self._open_mount_fd(inode)

    def _keep_to_limit(self) -> None:
        most = self._most()
        if len(self) > most:
            self.give_up(len(self) - most + most // 16)

    def count_asleep(self) -> None:
        """Count the pins of inodes that nobody has asked for since an earlier worker."""
        self._asleep = self._inodes.pins_asleep()

    def _wake_pins(self) -> None:
        if self._asleep:
            self._inodes.wake_all()

    def woken(self, inode: Inode) -> None:
        """Take note of the pin of an inode that an earlier worker knew."""
        if inode.fd != NO_FD:
            self._asleep = max(0, self._asleep - 1)
            self._pinned[inode] = None

    def make_room(self, most: int) -> None:
        """Give up pins until there are no more than `most`, as far as that can be.

        To be called while no pin is in use: before the first one of a request is.
        """
        for _ in range(_CHANCES + 1):
            if len(self) <= most:
                return
            self.give_up(len(self) - most + most // 16)

    def release(self, inode: Inode) -> None:
        """Close the pin of an inode that is no longer known."""
        if inode.fd != NO_FD:
            self._pinned.pop(inode, None)
            self._close(inode)

    def give_up(self, count: int) -> None:
        """Close up to `count` pins, those unused for longest first.

        What has no name any more stays pinned: nothing would lead back to it. What the request that
        is being served has pinned has chances left.
        """
        self._wake_pins()
        for inode in list(self._pinned):
            if count <= 0:
                return
            del self._pinned[inode]
            if inode.chances or inode.removed:
                inode.chances = max(0, inode.chances - 1)
                self._pinned[inode] = None
                continue
            if inode.handle is None and inode.dev in self._mount_fds:
                handle = self._handle_of(inode)
                if handle is not None:
                    self._inodes.set_handle(inode, handle)
            self._close(inode)
            count -= 1

    def _close(self, inode: Inode) -> None:
        fd = inode.fd
        self._inodes.pin(inode, NO_FD)
        os.close(fd)

    def status(self, inode: Inode) -> stat_result:
        """Return the attributes of `inode`, by the cheapest way that cannot be led astray."""
        if inode.fd != NO_FD:
            return os.fstat(inode.fd)
        if inode.files:
            return os.fstat(next(iter(inode.files.values())).fd)
        parent = inode.parent
        if parent is None or inode.handle is not None:
            return os.fstat(self.pin(inode))
        try:
            status = os.stat(inode.name, dir_fd=self.pin(parent), follow_symlinks=False)
        except FileNotFoundError:
            raise stale(inode) from None
        if not describes(status, inode):
            raise stale(inode)
        return status

    def _reachable(self, inode: Inode) -> bool:
        return bool(inode.files) or (inode.handle is not None and inode.dev in self._mount_fds)

    def _open(self, inode: Inode) -> int:
        if inode.files:
            file = next(iter(inode.files.values()))
            return os.open(descriptor_path(file.fd), os.O_PATH | os.O_CLOEXEC)
        if inode.handle is not None and inode.dev in self._mount_fds:
            try:
                return open_by_handle(self._mount_fds[inode.dev], inode.handle, _PIN)
            except OSError as error:
                if error.errno == errno.ESTALE:
                    # Or a new file that got the number would be taken for this one for ever.
                    self._inodes.gone(inode)
                raise
        assert inode.parent is not None
        try:
            fd = os.open(inode.name, _PIN, dir_fd=inode.parent.fd)
        except (FileNotFoundError, NotADirectoryError):
            raise stale(inode) from None
        status = os.fstat(fd)
        if not describes(status, inode):
            os.close(fd)
            raise stale(inode)
        return fd

    def _handle_of(self, inode: Inode) -> bytes | None:
        try:
            return name_to_handle(inode.fd)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._entries.drop(self._mount_places.pop(inode.dev))
            os.close(self._mount_fds.pop(inode.dev))
            return None

    def _open_mount_fd(self, directory: Directory) -> None:
        # open_by_handle_at(2) takes any descriptor of the file system but an O_PATH one.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        fd = self._mount_fds[directory.dev] = os.open(descriptor_path(directory.fd), flags)
        self._mount_places[directory.dev] = self._entries.add(DEVICE, directory.dev, 0, fd)
