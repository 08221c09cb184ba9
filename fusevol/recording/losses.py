"""Operations without a record, counted until a `gap` record reports them."""

import os
from time import time_ns
from typing import Final

from fusevol.record.times import Timestamps
from fusevol.recovery.log_cells import LOST, LOST_ERRNO, LOST_SINCE, UNRECORDED

_TRUNCATED: Final = "records at the end of the log are gone"


class Losses:
    """What one log has lost, in cells that outlive its writer.

    Attributes:
        count: operations without a record since the last `gap` record.
    """

    def __init__(self, cells: memoryview) -> None:
        """Begin with none, whatever the cells hold: see `resume` and `restore`."""
        self._cells = cells
        self._timestamps = Timestamps()
        self.count = 0

    def resume(self) -> None:
        """Go on with what the cells hold."""
        self.count = self._cells[LOST]

    def restore(self, count: int, errno: int, since_ns: int) -> None:
        """Go on with what is known otherwise: how many, why, since when (0 if not known)."""
        cells = self._cells
        self.count = cells[LOST] = count
        cells[LOST_ERRNO], cells[LOST_SINCE] = errno, since_ns

    def add(self, operations: int, errno: int) -> None:
        """Count operations that get no record."""
        cells = self._cells
        if not self.count:
            cells[LOST_ERRNO], cells[LOST_SINCE] = errno, time_ns()
        self.count += operations
        cells[LOST] = self.count
        cells[UNRECORDED] += operations

    def clear(self) -> None:
        """Note that a record reports all of them."""
        self.count = self._cells[LOST] = 0

    @property
    def errno(self) -> int:
        """Why the first of them was lost, 0 if that is not known."""
        return self._cells[LOST_ERRNO]

    @property
    def since_ns(self) -> int:
        """When the first of them was, in nanoseconds since 1970; 0 if that is not known."""
        return self._cells[LOST_SINCE]

    def why(self) -> str:
        """Return why, as records say it."""
        return os.strerror(self.errno) if self.errno else _TRUNCATED

    def since(self) -> str | None:
        """Return since when, as records say it; None if that is not known."""
        return self._timestamps.of(self.since_ns) if self.since_ns else None
