"""The thread that makes frames for the live view, so that its keys never wait for a log."""

import threading
import time
from collections.abc import Callable
from typing import Final

from fusevol.top.collector import Frame, FrameCollector

_FIRST_S: Final = 1.0
"""When the first frame is there at the latest, however long the others are."""


class Watcher(threading.Thread):
    """Makes a frame at each interval until it is ended.

    Attributes:
        interval_s: how long frames are.
    """

    def __init__(
        self,
        collector: Callable[[], FrameCollector],
        interval_s: float,
        deliver: Callable[[Frame], object],
        fail: Callable[[Exception], object],
    ) -> None:
        """Prepare.

        Args:
            collector: makes what makes frames.
            interval_s: how long frames are, in seconds.
            deliver: gets each frame, called in this thread.
            fail: gets what has ended the thread, called in this thread.
        """
        super().__init__(name="watcher", daemon=True)
        self._collector = collector
        self._interval_s = interval_s
        self._deliver = deliver
        self._fail = fail
        self._changed = threading.Event()
        self._has_ended = False

    @property
    def interval_s(self) -> float:
        return self._interval_s

    @interval_s.setter
    def interval_s(self, seconds: float) -> None:
        self._interval_s = seconds
        self._changed.set()

    def end(self) -> None:
        """End soon; a frame that is being made is not waited for."""
        self._has_ended = True
        self._changed.set()

    def run(self) -> None:
        try:
            self._watch()
        except Exception as error:
            # Whatever it is, the thread that has the terminal reports it.
            self._fail(error)

    def _watch(self) -> None:
        with self._collector() as collector:
            frames = 0
            began = time.monotonic()
            while not self._has_ended:
                interval_s = self._interval_s if frames else min(self._interval_s, _FIRST_S)
                left_s = began + interval_s - time.monotonic()
                if left_s > 0:
                    if self._changed.wait(left_s):
                        self._changed.clear()
                    continue
                began = time.monotonic()
                self._deliver(collector.frame())
                frames += 1
