"""Finding out which inodes the kernel does not know any more, after a worker died.

References that the dead worker had read of, or had told of in a reply that was never sent, are lost
to the count; such an inode would be known for ever, and what has lost its name would keep its space
on the disk. A request to the kernel to forget the attributes of an inode fails with ENOENT if it
does not know it (fs/fuse/inode.c, fuse_reverse_inval_inode), which is reliable.
"""

import errno
import os
import struct
from time import perf_counter_ns
from typing import Final

from fusevol.volume.volume import Volume

_NOTIFY_INVAL_INODE: Final = 2
_MESSAGE: Final = struct.Struct("<IiQQqq")  # len, code, unique 0, nodeid, offset, length
_ATTRIBUTES_ONLY: Final = -1
"""As offset: leaves cached data alone, and so waits for no page."""
_SLICE_NS: Final = 500_000
_APART_NS: Final = 150_000_000
_OWED_NS: Final = 2_000_000_000
"""How long references that were lost to the count may still come back: the kernel may have sent
them, and nobody have read them."""


class LookupReconciliation:
    """Goes through the inodes that an earlier worker knew, a few at a time, and twice.

    The kernel enters an inode when the client that looked it up runs on, which may be a while after
    the reply. So an inode has to be unknown in two looks some time apart, and nobody may have asked
    for it between the two.
    """

    def __init__(self, fuse_fd: int, volume: Volume) -> None:
        self._fuse_fd = fuse_fd
        self._volume = volume
        self._inodes = volume.inodes
        self._left: list[int] | None = None
        self._unknown: list[int] = []
        self._since_ns = perf_counter_ns()

    def go_on(self) -> bool:
        """Look at some more; return whether anything is left to do."""
        if self._left is None:
            self._left = self._inodes.dormant()
            self._volume.count_inherited()
        if self._left:
            self._look(_SLICE_NS)
            self._since_ns = perf_counter_ns()
        elif self._unknown:
            if perf_counter_ns() - self._since_ns > _APART_NS:
                self._look_again(_SLICE_NS)
        elif perf_counter_ns() - self._since_ns > _OWED_NS:
            self._inodes.forget_owed()
            return False
        return True

    def _look(self, budget_ns: int) -> None:
        end = perf_counter_ns() + budget_ns
        left = self._left
        assert left is not None
        while left and perf_counter_ns() < end:
            ino = left.pop()
            if not self._is_known(ino):
                self._unknown.append(ino)

    def _look_again(self, budget_ns: int) -> None:
        end = perf_counter_ns() + budget_ns
        while self._unknown and perf_counter_ns() < end:
            ino = self._unknown.pop()
            if self._inodes.is_dormant(ino) and not self._is_known(ino):
                self._inodes.disown(ino)
        if not self._unknown:
            self._since_ns = perf_counter_ns()

    def _is_known(self, ino: int) -> bool:
        message = _MESSAGE.pack(
            _MESSAGE.size, _NOTIFY_INVAL_INODE, 0, ino, _ATTRIBUTES_ONLY, _ATTRIBUTES_ONLY
        )
        try:
            os.write(self._fuse_fd, message)
        except OSError as error:
            return error.errno != errno.ENOENT
        return True
