"""How the next request is awaited: the part of trio that pyfuse3's main loop uses, made cheaper.

pyfuse3 waits for a request by trio, that is, by epoll. Waiting by poll or epoll, a thread is woken
on another processor than the client's, and waking one takes longer than serving the request.
One that blocks in read(2) on /dev/fuse is woken on the client's own processor, which the client is
about to leave, if both last ran there. With a file system that does nothing, in a VM with two
processors: 47 us a round trip by epoll, 16 us by polling without sleep, 6.6 us by blocking in
read(2) on the client's processor.

So while requests come, the loop lets pyfuse3 read without waiting first. Nothing else of this
process can run meanwhile, for pyfuse3 holds the GIL as it reads. Hence:

- a timer interrupts the read every few milliseconds, and trio's other tasks get their turn;
- after a while without requests the loop sleeps in trio, and the timer is off: idle costs nothing;
- while the client runs on another processor, as it does when both have nothing else to do, the loop
  looks for the next request for some microseconds before it blocks (measured with an fstat: 28
  instead of 50 us a round trip; 12 us on one processor);
- while something runs on a thread (`offload`), the loop polls, which lets go of the GIL.

pyfuse3 offers the place for this: it takes `Lock`, `lowlevel.wait_readable` and `open_nursery`
from a module variable named `trio`, which `pyfuse3.asyncio` replaces in the same way.

One task at a time waits for a request (the reader); others are parked. A handler that awaits must
go through `offload` or `aside`, which make another task the reader first.
"""

import inspect
import os
import select
import signal
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter_ns
from typing import Any, Final, TypeVar

import pyfuse3
import trio

from fusevol.fuse import message
from fusevol.linux.memory import keep_large_blocks, touch_next_block
from fusevol.linux.processors import current_processor, processor_of
from fusevol.recovery.journal import INLINE, Journal
from fusevol.recovery.region import PROGRESS

T = TypeVar("T")

_FIRST_TICK_S: Final = 0.001
_TICK_S: Final = 0.01
"""How long trio's other tasks may wait for their turn while requests come."""
_TEND_NS: Final = 5_000_000
_RESENT_NS: Final = 1_000_000_000
"""By then requests that an earlier worker had taken up have come, however much there is to do."""
_IDLE_TICKS: Final = 3
"""Ticks without a request after which the loop sleeps in trio."""
_BUSY: Final = 20
"""Requests in a tick from which it pays to be where the client is."""
_SPIN_NS: Final = 25_000
"""How long to look for the next request without sleep, while something runs on a thread."""
_SLICE_NS: Final = 1_000_000
"""How long requests are served before what ended on a thread is noticed."""
_BUFFER_BYTES: Final = (1 << 20) + (256 << 10)
"""What libfuse allocates for each task to read requests into (1 MiB and a header), and some."""
_THREADS: Final = 16
"""Calls that wait for a device, at once."""

Poll = Callable[[int], list[tuple[int, int]]]


class _Done:
    """An awaitable that is done; cheaper than a coroutine that returns at once."""

    def __await__(self) -> Generator[Any, None, None]:
        return iter(())  # type: ignore[return-value]


_DONE: Final = _Done()


class _OpenLock:
    """Stands for the lock around pyfuse3's wait; `RequestLoop` itself lets one task wait."""

    def __aenter__(self) -> _Done:
        return _DONE

    def __aexit__(self, *exc_info: object) -> _Done:
        return _DONE


class RequestLoop:
    """Waits for requests on behalf of pyfuse3's tasks, and runs what may block on threads."""

    def __init__(
        self,
        on_first_reply: Callable[[], None],
        last_client: Callable[[], int],
        journal: Journal,
    ) -> None:
        """Prepare a loop; it must run on the main thread, which gets the timer's signal.

        Args:
            journal: notified when replies have left.
            on_first_reply: called once, when the first request (INIT) was answered; from then on
                requests are read from the kernel.
            last_client: returns the thread id of the client that was served last, or 0.
        """
        self._last_client = last_client
        self._journal = journal
        self._words = journal.words
        self._halted: trio.Event | None = None
        self._drained = trio.Event()
        self._has_answered = False
        self._tended_ns = perf_counter_ns()
        self._resent_by_ns = self._tended_ns + _RESENT_NS
        self._chore: Callable[[], bool] | None = None
        self._apart = False
        self._on_first_reply: Callable[[], None] | None = on_first_reply
        self._init_pending = True
        self._poll: Poll | None = None
        self._reading = False
        self._waiters = trio.lowlevel.ParkingLot()
        self._ticked = True
        self._requests = 0
        self._idle_ticks = 0
        self._offloaded = 0
        self._yielded_ns = 0
        self._many_processors = len(os.sched_getaffinity(0)) > 1
        self.limiter = trio.CapacityLimiter(_THREADS)

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
        # Python installs handlers without SA_RESTART, so the signal ends a read(2).
        signal.signal(signal.SIGALRM, self._tick)
        keep_large_blocks()

    async def offload(
        self,
        call: Callable[..., T],
        *args: object,
        limiter: trio.CapacityLimiter | None = None,
    ) -> T:
        """Run `call` on a thread and let other requests be served meanwhile.

        Args:
            limiter: of threads; without, it is one that all such calls share.
        """
        run = partial(trio.to_thread.run_sync, limiter=limiter or self.limiter)
        return await self.aside(run, call, *args)

    async def aside(self, wait: Callable[..., Awaitable[T]], *args: object) -> T:
        """Await what a thread does, and let other requests be served meanwhile."""
        self._offloaded += 1
        try:
            self.hand_over()
            return await wait(*args)
        finally:
            self._offloaded -= 1
            if not self._offloaded:
                # The reply leaves before the waiter gets its turn.
                self._drained.set()

    def hand_over(self) -> None:
        """Let another task read requests, if there is one and no task does."""
        if not self._reading:
            self._waiters.unpark()

    def take_turn(self) -> None:
        """Let trio's other tasks run before the next request is read."""
        self._ticked = True

    def set_chore(self, chore: Callable[[], bool]) -> None:
        """Call `chore` between requests, every few milliseconds, until it returns False."""
        self._chore = chore

    async def drain(self) -> None:
        """Read no more requests, and return when all that were read are answered."""
        self._halted = trio.Event()
        self._ticked = True
        if self._offloaded:
            self._drained = trio.Event()
            await self._drained.wait()

    def resume(self) -> None:
        """Go on after `drain`."""
        if self._halted is not None:
            self._halted.set()
            self._halted = None

    def _tick(self, _number: int, _frame: object) -> None:
        self._ticked = True

    def _wait_readable(self, fd: int) -> Awaitable[None]:
        self._words[INLINE] = 0
        if self._journal.finished:
            self._journal.answered()
            self._has_answered = True
        if self._ticked or self._offloaded or self._reading:
            return self._wait_for_turn(fd)
        self._requests += 1
        if self._apart:
            self._look_out()
        return _DONE

    async def _wait_for_turn(self, fd: int) -> None:
        if self._init_pending:
            self._init_pending = False
            return
        while self._reading or self._halted:
            await (self._halted.wait() if self._halted else self._waiters.park())
        self._reading = True
        try:
            if self._offloaded or self._ticked:
                await self._wait_with_others(fd)
        finally:
            self._reading = False

    async def _wait_with_others(self, fd: int) -> None:
        """Let trio's other tasks run, then wait in the way that suits what is going on."""
        if self._poll is None:
            self._poll = self._connect(fd)
        if self._ticked or perf_counter_ns() - self._yielded_ns > _SLICE_NS:
            await trio.lowlevel.checkpoint()
            self._yielded_ns = perf_counter_ns()
        if self._halted:
            await self._halted.wait()
        if perf_counter_ns() - self._tended_ns > _TEND_NS:
            self._tend(self._poll)
        if self._offloaded:
            await self._wait_by_polling(fd, self._poll)
            return
        self._ticked = False
        if self._requests > _BUSY and self._many_processors:
            self._see_where_client_runs()
        self._idle_ticks = 0 if self._requests or self._chore else self._idle_ticks + 1
        self._requests = 0
        if self._idle_ticks >= _IDLE_TICKS:
            signal.setitimer(signal.ITIMER_REAL, 0)
            await self._wait_asleep(fd, self._poll)
            signal.setitimer(signal.ITIMER_REAL, _FIRST_TICK_S, _TICK_S)
            self._idle_ticks = 0

    def _tend(self, poll: Poll) -> None:
        """Do what is to be done every few milliseconds while requests come."""
        self._tended_ns = perf_counter_ns()
        if self._requests or self._has_answered:
            self._words[PROGRESS] = 1
        if self._journal.resumed and (not poll(0) or self._tended_ns > self._resent_by_ns):
            # What is sent again comes before all else, so it was read by now, or its caller killed.
            self._journal.give_up_resumed()
        if self._chore is not None and not self._chore():
            self._chore = None

    def _see_where_client_runs(self) -> None:
        processor = processor_of(self._last_client())
        if processor is not None:
            self._apart = processor != current_processor()

    def _look_out(self) -> None:
        """Look for the next request for a while, so as not to be woken from afar."""
        poll = self._poll
        assert poll is not None
        end = perf_counter_ns() + _SPIN_NS
        while not poll(0):
            if perf_counter_ns() > end:
                return

    async def _wait_by_polling(self, fd: int, poll: Poll) -> None:
        end = perf_counter_ns() + _SPIN_NS
        while not poll(0):
            if not self._many_processors or perf_counter_ns() > end:
                await self._wait_asleep(fd, poll)
                return

    async def _wait_asleep(self, fd: int, poll: Poll) -> None:
        while True:
            await trio.lowlevel.wait_readable(fd)
            if self._halted:
                await self._halted.wait()
            # Nothing may be awaited between this look and the read: another task could read first.
            if poll(0):
                self._yielded_ns = perf_counter_ns()
                return

    def _connect(self, fd: int) -> Poll:
        assert self._on_first_reply is not None
        self._on_first_reply()
        self._on_first_reply = None
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        signal.setitimer(signal.ITIMER_REAL, _TICK_S, _TICK_S)
        return poller.poll

    @asynccontextmanager
    async def _open_nursery(self) -> AsyncIterator["_Nursery"]:
        try:
            async with trio.open_nursery() as nursery:
                yield _Nursery(nursery, self)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


class _Nursery:
    """The nursery pyfuse3 starts its tasks in."""

    def __init__(self, nursery: trio.Nursery, loop: RequestLoop) -> None:
        self._nursery = nursery
        self._loop = loop

    def start_soon(
        self, loop: Callable[..., Awaitable[None]], *args: Any, name: str | None = None
    ) -> None:
        # The new task has to run once to be counted as waiting; until then pyfuse3 starts more.
        self._loop.take_turn()
        self._nursery.start_soon(self._run, loop, args, name=name)

    async def _run(self, loop: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        # A worker that is killed while the kernel waits for memory to put a request in fails it.
        touch_next_block(_BUFFER_BYTES)
        # Without pyfuse3's wrapper around it, which has nothing to do with trio.
        coroutine = inspect.unwrap(loop)(*args)
        message.serving.set(coroutine)
        try:
            await coroutine
        finally:
            self._loop.hand_over()
