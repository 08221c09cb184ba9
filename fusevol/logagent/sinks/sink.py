"""A sink: one place besides its file that gets the records of a log."""

import time
from collections.abc import Callable, Sequence
from typing import Self

from fusevol.logagent.sinks.unix_socket import SinkConnection
from fusevol.record.record import AccessRecord


class Sink:
    """Sends records to one receiver. One thread only; a context manager that closes it."""

    def __init__(
        self, connection: SinkConnection, encode: Callable[[AccessRecord], bytes], timeout_s: float
    ) -> None:
        """Own `connection`; `encode` makes an entry for it."""
        self._connection = connection
        self._encode = encode
        self._timeout_s = timeout_s
        self._sent = 0
        """How many of the records that come first in the next call were sent already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; what was not handed over may have arrived all the same."""
        self._connection.close()

    def send(self, records: Sequence[tuple[bytes, AccessRecord]]) -> int:
        """Send lines and their records in order, for the timeout at most.

        Returns how many of them, from the first on, the receiver is known to have read. The next
        call has to begin with the first that is not among these; it may have been sent already.

        Raises:
            OSError: the receiver is gone. After opening a new sink, send the records since the
                last call that returned; some of them may arrive a second time.
        """
        deadline = time.monotonic() + self._timeout_s
        for _line, record in records[self._sent :]:
            if not self._connection.put(self._encode(record), deadline):
                break
            self._sent += 1
        if not self._connection.is_read(deadline):
            return 0
        handed_over, self._sent = self._sent, 0
        return handed_over
