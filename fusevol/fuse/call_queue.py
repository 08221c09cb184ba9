"""Calls on threads that can be abandoned: they continue without a waiter.

A call is made and waited for on trio's thread, and runs on a thread of its queue. What both touch
is under a lock.
"""

import errno
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

import trio

logger = logging.getLogger(__name__)

_WAITING, _RUNNING, _RETURNED, _LATE, _DROPPED = range(5)
_BRIEF_S: Final = 0.0002
"""How long to wait for a call before others get their turn: most are back by then."""

Rollback = Callable[[Any], None]


class TooLateError(OSError):
    """A call was given up; `call` may still run."""

    def __init__(self, call: "Call") -> None:
        super().__init__(errno.EIO, os.strerror(errno.EIO))
        self.call = call


class Call:
    """A call that somebody waits for, for a while."""

    def __init__(
        self,
        run: Callable[[], Any],
        lock: threading.Lock,
        *,
        rollback: Rollback | None = None,
        must_run: bool = False,
    ) -> None:
        """Prepare.

        Args:
            rollback: called with the result if nobody waits for it any more.
            must_run: it is not dropped when it is given up before it has begun.
        """
        self._run = run
        self._lock = lock
        self._rollback = rollback
        self._must_run = must_run
        self._state = _WAITING
        self._result: Any = None
        self._error: Exception | None = None
        self._running = threading.Lock()
        self._running.acquire()
        self._returned: trio.Event | None = None
        self._after: list[Callable[[], None]] = []

    def __call__(self) -> trio.Event | None:
        """Run it, unless it was abandoned before; return the event to set for the waiter."""
        with self._lock:
            if self._state == _DROPPED:
                return None
            if self._state == _WAITING:
                self._state = _RUNNING
        try:
            self._result = self._run()
        except Exception as error:
            self._error = error
        with self._lock:
            if self._state != _LATE:
                self._state = _RETURNED
                self._running.release()
                return self._returned
        self._clean_up()
        return None

    def is_back_soon(self) -> bool:
        """Wait for it for a moment, in which nothing else is done; return whether it is back."""
        return self._running.acquire(timeout=_BRIEF_S)

    async def wait(self) -> None:
        """Wait until it is back."""
        with self._lock:
            if self._state == _RETURNED:
                return
            self._returned = trio.Event()
        await self._returned.wait()

    def result(self) -> Any:
        """Return what it returned, or raise what it raised.

        Raises:
            TooLateError: it has not returned; from now on it is late.
        """
        with self._lock:
            if self._state == _RUNNING or (self._state == _WAITING and self._must_run):
                self._state = _LATE
            elif self._state == _WAITING:
                self._state = _DROPPED
        if self._state != _RETURNED:
            raise TooLateError(self)
        if self._error is not None:
            raise self._error
        return self._result

    @property
    def is_late(self) -> bool:
        """Whether it was given up and is not over yet."""
        return self._state == _LATE

    def when_over(self, what: Callable[[], None]) -> None:
        """Do something when a late call is over: then on its thread, or now if it is."""
        with self._lock:
            if self._state == _LATE:
                self._after.append(what)
                return
        what()

    def _clean_up(self) -> None:
        try:
            if self._rollback is not None and self._error is None:
                self._rollback(self._result)
        except Exception:
            logger.exception("a call past its deadline could not be undone")
        with self._lock:
            self._state = _DROPPED
        for what in self._after:
            what()


class CallQueue:
    """Runs calls in the order in which they come, on some threads."""

    def __init__(self, most: int, soon: Callable[[Callable[[], object]], None]) -> None:
        """Prepare; threads are started when they are needed.

        Args:
            most: how many threads.
            soon: has something done on trio's thread.
        """
        self.current: Call | None = None
        """What was begun last."""
        self._most = most
        self._soon = soon
        self._queue: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0

    def put(self, call: Call) -> None:
        """Have a call run when it is its turn."""
        with self._lock:
            self._unfinished += 1
            is_needed = self._threads < min(self._unfinished, self._most)
            self._threads += is_needed
        if is_needed:
            threading.Thread(target=self._run, daemon=True).start()
        self._queue.put(call)

    def _run(self) -> None:
        while True:
            self.current = call = self._queue.get()
            returned = call()
            if returned is not None:
                self._soon(returned.set)
            with self._lock:
                self._unfinished -= 1
