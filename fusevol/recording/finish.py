"""The function that finishes a request: `recorder` and `coalescing` make them."""

from typing import TYPE_CHECKING, Protocol

from fusevol.record.record import AccessRecord
from fusevol.recovery.journal import Entry

if TYPE_CHECKING:
    from fusevol.inodes.objects import Opened


class Finish(Protocol):
    """Concludes a request.

    Args:
        entry: of the journal.
        record: what to write; None where the caller or the handle is not known.
        started: `time.perf_counter_ns()` at the beginning.
        number: errno of the result, 0 for success.
        opened: the open file or directory that it was on, if it was on one.
    """

    def __call__(
        self,
        entry: Entry,
        record: AccessRecord | None,
        started: int,
        number: int,
        opened: "Opened | None" = None,
    ) -> None: ...
