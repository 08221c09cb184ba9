"""How the next request is awaited: the part of trio that pyfuse3's main loop uses, made cheaper.

pyfuse3 waits for a request with a trio lock and trio's epoll, which costs several passes of the
scheduler and, far worse, lets this process sleep: waking it takes longer than serving the request
(measured in a 2-core VM: 45 us a round trip asleep, 16 us awake). So after a request the loop
looks for the next one for a few microseconds before it sleeps. It does so only while that pays
off, never when idle, and not on a single processor, where it would hold up the client.

pyfuse3 offers the place for this: it takes `Lock`, `lowlevel.wait_readable` and `open_nursery`
from a module variable named `trio`, which `pyfuse3.asyncio` replaces in the same way.

One task at a time waits for a request (the poller); others are parked. A handler that awaits must
go through `offload`, which makes another task the poller first.
"""

import errno
import os
import select
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter_ns
from typing import Any, Final, TypeVar

import pyfuse3
import trio

T = TypeVar("T")

_SPIN_NS: Final = 25_000
"""How long to look for the next request; a client's own work between two requests is shorter."""
_SLICE_NS: Final = 1_000_000
"""How long requests are served before trio's other tasks get their turn."""
_CREDIT: Final = 8
"""How many looks in vain are made before the loop goes to sleep at once."""
_SHORT_NS: Final = 100_000
"""A sleep shorter than this means that looking would have paid off."""
_THREADS: Final = 16
"""Calls that wait for a device, at once."""


class _OpenLock:
    """Stands for the lock around pyfuse3's wait; `RequestLoop` itself lets one task wait."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *exc_info: object) -> None:
        return None


class RequestLoop:
    """Waits for requests on behalf of pyfuse3's tasks, and runs what may block on threads."""

    def __init__(self, on_first_reply: Callable[[], None]) -> None:
        """Prepare a loop.

        Args:
            on_first_reply: called once, when the first request (INIT) was answered; from then on
                requests are read from the kernel.
        """
        self._on_first_reply: Callable[[], None] | None = on_first_reply
        self._init_pending = True
        self._poller: Callable[[int], list[tuple[int, int]]] | None = None
        self._polling = False
        self._waiters = trio.lowlevel.ParkingLot()
        self._task_started = False
        self._yielded_ns = 0
        self._may_spin = len(os.sched_getaffinity(0)) > 1
        self._credit = _CREDIT if self._may_spin else 0
        self._limiter = trio.CapacityLimiter(_THREADS)

    def install(self) -> None:
        """Make pyfuse3 use this loop."""
        facade = types.SimpleNamespace(**{name: getattr(trio, name) for name in dir(trio)})
        facade.lowlevel = types.SimpleNamespace(
            **{name: getattr(trio.lowlevel, name) for name in dir(trio.lowlevel)}
        )
        facade.lowlevel.wait_readable = self._wait_readable
        facade.Lock = _OpenLock
        facade.open_nursery = self._open_nursery
        pyfuse3.trio = facade  # type: ignore[attr-defined]

    async def offload(
        self,
        call: Callable[..., T],
        *args: object,
        limiter: trio.CapacityLimiter | None = None,
    ) -> T:
        """Run `call` on a thread and let other requests be served meanwhile."""
        self._hand_over()
        return await trio.to_thread.run_sync(call, *args, limiter=limiter or self._limiter)

    def _hand_over(self) -> None:
        if not self._polling:
            self._waiters.unpark()

    async def _wait_readable(self, fd: int) -> None:
        if self._init_pending:
            self._init_pending = False
            return
        while self._polling:
            await self._waiters.park()
        self._polling = True
        try:
            if self._on_first_reply is not None:
                self._on_first_reply()
                self._on_first_reply = None
                poller = select.poll()
                poller.register(fd, select.POLLIN)
                self._poller = poller.poll
            assert self._poller is not None
            await self._next_request(fd, self._poller)
        finally:
            self._polling = False

    async def _next_request(self, fd: int, poll: Callable[[int], list[tuple[int, int]]]) -> None:
        # Between the last poll and the return nothing may be awaited: another task could take
        # the request, and reading would find none.
        now = perf_counter_ns()
        if self._task_started or now - self._yielded_ns > _SLICE_NS:
            self._task_started = False
            await trio.lowlevel.checkpoint()
            self._yielded_ns = now = perf_counter_ns()
        if poll(0):
            return
        if self._credit > 0:
            end = now + _SPIN_NS
            while perf_counter_ns() < end:
                if poll(0):
                    self._credit = _CREDIT
                    return
            self._credit -= 1
        asleep = perf_counter_ns()
        while True:
            await trio.lowlevel.wait_readable(fd)
            if poll(0):
                break
        self._yielded_ns = awake = perf_counter_ns()
        if self._may_spin and awake - asleep < _SHORT_NS:
            self._credit = _CREDIT

    @asynccontextmanager
    async def _open_nursery(self) -> AsyncIterator["_Nursery"]:
        async with trio.open_nursery() as nursery:
            yield _Nursery(nursery, self)

    def task_started(self) -> None:
        """Note that pyfuse3 started a task; it has to run once to be counted as waiting."""
        self._task_started = True

    def task_ended(self) -> None:
        """Note that a task of pyfuse3 ended; if it was the poller, another takes its place."""
        self._hand_over()


class _Nursery:
    """The nursery pyfuse3 starts its tasks in."""

    def __init__(self, nursery: trio.Nursery, loop: RequestLoop) -> None:
        self._nursery = nursery
        self._loop = loop

    def start_soon(
        self, loop: Callable[..., Awaitable[None]], *args: Any, name: str | None = None
    ) -> None:
        self._loop.task_started()
        self._nursery.start_soon(self._run, loop, args, name=name)

    async def _run(self, loop: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        try:
            while True:
                try:
                    return await loop(*args)
                except OSError as error:
                    # The client was killed after the poll and took its request with it.
                    if error.errno != errno.EAGAIN:
                        raise
        finally:
            self._loop.task_ended()
