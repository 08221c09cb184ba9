"""Sending what a log gets to one sink: a thread that waits for nobody but its own sink."""

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from fusevol.errors import FusevolError
from fusevol.logagent.backlog import Backlog, position_after
from fusevol.logagent.positions import Position
from fusevol.logagent.sinks import open_sink, parse

if TYPE_CHECKING:
    from fusevol.logagent.sinks.sink import Sink

_BATCH: Final = 256
_IDLE_S: Final = 0.1
_SHORTEST_WAIT_S: Final = 0.2
_LONGEST_WAIT_S: Final = 15.0

logger = logging.getLogger(__name__)


class Forwarder(threading.Thread):
    """Sends the records of a log to one sink, in order, each at least once.

    Attributes:
        sink: as the user named it.
        position: after the last record that was handed over.
        newest: highest number that the log was seen to have; see `saw`.
        error: why sending does not work right now; "" if it does.
        error_since: when that began, in seconds since 1970.
    """

    def __init__(self, sink: str, log: str, position: Position) -> None:
        super().__init__(name=f"to {sink}", daemon=True)
        self.sink = sink
        self.position = position
        self.newest = max(position.newest, position.seq)
        self.error = ""
        self.error_since = 0.0
        self._log = log
        self._ending = threading.Event()
        self._wait_s = _SHORTEST_WAIT_S

    def saw(self, seq: int) -> None:
        """Note a number that a record of the log has."""
        self.newest = max(self.newest, seq)

    def end(self) -> None:
        """Have it end as soon as it has sent what is in the log."""
        self._ending.set()

    def run(self) -> None:
        """Send until nothing is left and it is to end; the next agent sends the rest."""
        is_ending = False
        # A sink that was gone may be back by the end: so it is tried once more then.
        while not self._send_all() and not is_ending:
            is_ending = self._ending.wait(self._wait_s)
            self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)

    def _send_all(self) -> bool:
        """Send until the end; return False if that failed and is to be tried again."""
        try:
            with (
                open_sink(parse(self.sink)) as sink,
                Backlog(self._log, self.position, lambda: self.newest) as backlog,
            ):
                self._send_to(sink, backlog)
        except OSError as error:
            self._failed(error.strerror or str(error))
            return False
        except FusevolError as error:
            self._failed(str(error))
            return False
        except Exception as error:
            # A fault of ours must not end this thread, which nobody would notice.
            logger.exception("%s: sink %s", self._log, self.sink)
            self._failed(repr(error))
            return False
        return True

    def _send_to(self, sink: "Sink", backlog: Backlog) -> None:
        while True:
            is_ending = self._ending.is_set()
            entries = backlog.take(_BATCH)
            while entries:
                sent = sink.send(entries)
                if sent:
                    self._has_sent(position_after(entries[sent - 1][1]))
                    self._works()
                else:
                    self._failed("it accepts no records")
                    if self._ending.is_set():
                        return
                entries = entries[sent:]
            if backlog.is_empty:
                if is_ending:
                    return
                self._ending.wait(_IDLE_S)

    def _has_sent(self, position: Position) -> None:
        if position.seq < self.position.seq:
            # Another log: what was known of the one before has been reported by now.
            self.newest = position.seq
        self.position = position
        self.saw(position.seq)

    def _failed(self, why: str) -> None:
        if why != self.error:
            logger.warning("%s: sink %s: %s; retrying until it works", self._log, self.sink, why)
        if not self.error:
            self.error_since = time.time()
        self.error = why

    def _works(self) -> None:
        if self.error:
            logger.warning("%s: sink %s works again", self._log, self.sink)
        self.error = ""
        self._wait_s = _SHORTEST_WAIT_S
