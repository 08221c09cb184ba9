"""Whether writers come near the blocks that a file system keeps for one user (mke2fs(8), -m).

Only near them does it matter as whom the worker writes. statfs(2) tells how much is free for all
(f_bavail) and how much there is (f_bfree). It is asked now and then, as no host writes the margin
within that time.
"""

import os
from time import monotonic_ns
from typing import Final

_MARGIN_BYTES: Final = 1 << 30
_FRESH_NS: Final = 20_000_000


class Reserve:
    """The reserved blocks of one file system. Any thread.

    Attributes:
        far_until_ns: until then they are known to be far, by `time.monotonic_ns()`.
    """

    __slots__ = ("far_until_ns",)

    def __init__(self) -> None:
        self.far_until_ns = 0

    def is_near(self, fd: int) -> bool:
        """Return whether what is free for all may end soon, and more is free for some.

        Args:
            fd: something open on the file system.
        """
        now = monotonic_ns()
        if now < self.far_until_ns:
            return False
        if _is_near(fd):
            return True
        self.far_until_ns = now + _FRESH_NS
        return False


def _is_near(fd: int) -> bool:
    try:
        found = os.fstatvfs(fd)
    except OSError:
        return True
    return found.f_bavail * found.f_frsize < _MARGIN_BYTES and found.f_bavail < found.f_bfree
