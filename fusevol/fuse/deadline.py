"""Operations that are given up when the source takes too long.

A call that hangs in the kernel cannot be ended. So the client gets its answer without it, and when
the call returns after all, what it has left is undone: what it opened is closed, what the kernel
was not told of is forgotten. What it did to the source stays done.

Calls that change the state of the volume run one at a time, in the order of their requests; behind
one that hangs the others wait, until they are given up, too, without having begun. Reads, writes
and syncs run beside them.
"""

import contextlib
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pyfuse3
import trio

from fusevol.fuse.call_queue import Call, CallQueue, Rollback, TooLateError
from fusevol.fuse.executor import Forget, Forgotten, Runner
from fusevol.fuse.requestloop import RequestLoop
from fusevol.recovery.journal import Entry, Journal

if TYPE_CHECKING:
    from fusevol.inodes.objects import Opened

_MUST_RUN: Final = frozenset(("release", "releasedir"))
"""What the kernel asks for once and never again."""
_THREADS: Final = 16
"""Reads, writes and syncs at once."""


class Deadline:
    """The executor that gives up what takes too long. Belongs to trio's thread."""

    def __init__(
        self,
        seconds: float,
        loop: RequestLoop,
        journal: Journal,
        rollbacks: Mapping[str, Rollback],
    ) -> None:
        """Prepare; to be called in trio.

        Args:
            seconds: how long to wait.
            rollbacks: operation -> what undoes its handler, given the result.
        """
        self._rollbacks = rollbacks
        self._seconds = seconds
        self._loop = loop
        self._journal = journal
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._one = CallQueue(1, self._soon)
        self._many = CallQueue(_THREADS, self._soon)
        self._late: dict[Opened, list[Call]] = {}

    def runner(self, handler: Callable[..., Any]) -> Runner:
        """Return what runs `handler` on a thread, one at a time.

        That raises TooLateError if it has not returned in time.
        """
        op = handler.__name__
        rollback, must_run = self._rollbacks.get(op), op in _MUST_RUN

        def run(*given: object) -> Awaitable[Any]:
            call = partial(handler, *given)
            made = Call(call, self._lock, rollback=rollback, must_run=must_run)
            return self._result(made, self._one)

        return run

    def forgetter(self, forget: Forget) -> Callable[[Forgotten], Awaitable[None]]:
        """Return what has `forget` run when its turn comes, and does not wait for it."""

        async def forget_later(forgotten: Forgotten) -> None:
            self._put(partial(forget, forgotten))

        return forget_later

    def later(self, call: Callable[[Any], None], opened: "Opened") -> None:
        """Run `call` when its turn comes, and do not wait for it."""
        self._put(partial(call, opened))

    def _put(self, call: Callable[[], None]) -> None:
        self._one.put(Call(call, self._lock))

    async def offload(self, call: Callable[..., Any], opened: "Opened", *args: object) -> Any:
        """Run `call` on what is open, on any thread.

        Raises:
            TooLateError: it has not returned in time.
        """
        made = Call(partial(call, opened, *args), self._lock)
        try:
            return await self._result(made, self._many)
        except TooLateError:
            late = [call for call in self._late.get(opened, ()) if call.is_late]
            self._late[opened] = [*late, made]
            raise

    async def _result(self, made: Call, queue: CallQueue) -> Any:
        queue.put(made)
        if not made.is_back_soon():
            await self._loop.aside(self._wait, made)
        return made.result()

    async def _wait(self, made: Call) -> None:
        with trio.move_on_after(self._seconds):
            await made.wait()

    def close(self, call: Callable[[Any], None], opened: "Opened") -> None:
        """Close what is open, now or when the last late call on it is over.

        Its descriptor's number must not go to another file while such a call may use it.
        """
        late = [made for made in self._late.pop(opened, ()) if made.is_late]
        self._close_after(late, partial(call, opened))

    def _close_after(self, late: list[Call], close: Callable[[], None]) -> None:
        if late:
            late[0].when_over(partial(self._close_after, late[1:], close))
        else:
            close()

    def free(self, entry: Entry, late: Call | None) -> None:
        """Free an entry when the reply has left; that of a call which may write to it at its end.

        From the reply on it stands for no request: its thread may make another like it.
        """
        if late is None or not late.is_late:
            self._journal.finished.append(entry)
            return
        self._soon(entry.disown)
        late.when_over(partial(self._soon, partial(self._journal.finished.append, entry)))

    def is_late(self) -> bool:
        """Return whether the handler that asks was given up."""
        return self._one.current is not None and self._one.current.is_late

    def readdir_reply(self, *args: Any) -> bool:
        """pyfuse3.readdir_reply, but False if the reply that it would write to has left."""
        with self._lock:
            return not self.is_late() and pyfuse3.readdir_reply(*args)

    def _soon(self, call: Callable[[], object]) -> None:
        """Have something done on trio's thread, after the reply that is being made there."""
        # None is made any more when trio has ended.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(call)
