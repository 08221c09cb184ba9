"""Where handlers run, and the calls of theirs that wait for a device. One is chosen for a mount.

- `InPlace`: a local source. Handlers run on trio's thread, which serves one request from beginning
  to end; only what waits for a device goes to a thread.
- `OneAtATime`: a remote source, where any call may wait. Each handler runs on a thread, one at a
  time, as the state of the volume is not locked.
- `deadline.Deadline`: any source, and what takes too long is given up.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, ReaddirToken

from fusevol.fuse.call_queue import Call
from fusevol.fuse.requestloop import RequestLoop
from fusevol.inodes.objects import Opened
from fusevol.recovery.journal import Entry, Journal

Runner = Callable[..., Awaitable[Any]]
Forgotten = list[tuple[int, int]]
"""Node ids, each with the number of references that the kernel has given back."""
Forget = Callable[[Forgotten], None]


class Executor(Protocol):
    """Runs what requests ask for. All but handlers and what they call belongs to trio's thread."""

    def runner(self, handler: Callable[..., Any]) -> Runner | None:
        """Return what runs `handler` on a thread when its turn comes; None to call it in place."""

    def offload(self, call: Callable[..., Any], opened: Opened, *args: object) -> Awaitable[Any]:
        """Run `call` on what is open, on any thread, while other requests are served."""

    def forgetter(self, forget: Forget) -> Callable[[Forgotten], Awaitable[None]]:
        """Return what runs `forget` as handlers are run; the kernel awaits no reply."""

    def later(self, call: Callable[[Any], None], opened: Opened) -> None:
        """Run what is left to do with `opened` after its last request was recorded."""

    def close(self, call: Callable[[Any], None], opened: Opened) -> None:
        """Run `call`, which closes `opened`, when nothing uses its descriptor; for handlers."""

    def readdir_reply(
        self, token: ReaddirToken, name: bytes, attr: EntryAttributes, next_id: int
    ) -> bool:
        """Add to the reply to a listing; return False if it is full. For handlers."""

    def is_late(self) -> bool:
        """Return whether the handler that asks was given up: its reply has left without it."""

    def free(self, entry: Entry, late: Call | None) -> None:
        """Free the entry of a request when its reply has left, and `late`, a part of it, is over.

        Not for `Journal.inline`.
        """


class InPlace:
    """Runs handlers on trio's thread."""

    def __init__(self, loop: RequestLoop, journal: Journal) -> None:
        self._loop = loop
        self._journal = journal

    def runner(self, handler: Callable[..., Any]) -> Runner | None:
        return None

    def offload(self, call: Callable[..., Any], opened: Opened, *args: object) -> Awaitable[Any]:
        return self._loop.offload(call, opened, *args)

    def forgetter(self, forget: Forget) -> Callable[[Forgotten], Awaitable[None]]:
        async def forget_in_place(forgotten: Forgotten) -> None:
            forget(forgotten)

        return forget_in_place

    def later(self, call: Callable[[Any], None], opened: Opened) -> None:
        call(opened)

    def close(self, call: Callable[[Any], None], opened: Opened) -> None:
        call(opened)

    readdir_reply = staticmethod(pyfuse3.readdir_reply)

    def is_late(self) -> bool:
        return False

    def free(self, entry: Entry, late: Call | None) -> None:
        self._journal.finished.append(entry)


class OneAtATime(InPlace):
    """Runs handlers on a thread, in the order of their requests."""

    def __init__(self, loop: RequestLoop, journal: Journal) -> None:
        super().__init__(loop, journal)
        self._in_turn = partial(loop.offload, limiter=trio.CapacityLimiter(1))

    def runner(self, handler: Callable[..., Any]) -> Runner | None:
        return partial(self._in_turn, handler)

    def forgetter(self, forget: Forget) -> Callable[[Forgotten], Awaitable[None]]:
        return partial(self._in_turn, forget)
