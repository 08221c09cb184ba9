"""Work on parts of a log in several processes, with results in the order of the parts.

A worker is a fork of this process, so that it has what was opened and compiled before. It takes
every n-th part and writes its results into a pipe, from where they are fetched when it is their
turn. So memory is bounded by what a worker puts into one result, and a worker ends by itself when
this process is gone.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, TypeVar

from fusevol.errors import FusevolError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

Part = TypeVar("Part")
Result = TypeVar("Result")


def usable_processors() -> int:
    """Return on how many processors this process may run."""
    return len(os.sched_getaffinity(0))


def in_order(
    parts: Sequence[Part], work: Callable[[Part], Iterator[Result]], processes: int
) -> Generator[tuple[Part, Result]]:
    """Yield what `work` yields for each part, together with the part, in the order of the parts.

    With fewer than two processes, or parts, all is done in this process.

    Raises:
        FusevolError: `work` raised it, or a process ended before its work was done.
    """
    processes = min(processes, len(parts))
    if processes < 2:
        for part in parts:
            for result in work(part):
                yield part, result
        return
    with contextlib.ExitStack() as stack:
        receivers: list[Connection] = []
        for index in range(processes):
            receivers.append(_start(parts[index::processes], work, receivers, stack))
        for index, part in enumerate(parts):
            yield from ((part, result) for result in _results(receivers[index % processes]))


def in_child(work: Callable[[], Iterator[Result]]) -> Generator[Result]:
    """Yield what `work` yields, which runs in a process of its own and may give up its rights.

    Raises:
        FusevolError: `work` raised it, or the process ended before its work was done.
    """
    with contextlib.ExitStack() as stack:
        receiver = _start([None], lambda _part: work(), [], stack)
        yield from _results(receiver)


def _start(
    parts: Sequence[Part],
    work: Callable[[Part], Iterator[Result]],
    others: list[Connection],
    stack: contextlib.ExitStack,
) -> Connection:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    # A worker must hold no reading end, or it would not notice that nobody reads any more.
    process = context.Process(
        target=_serve, args=(parts, work, sender, [*others, receiver]), daemon=True
    )
    process.start()
    sender.close()
    stack.callback(_end, process, receiver)
    return receiver


def _end(process: "BaseProcess", receiver: Connection) -> None:
    receiver.close()
    process.terminate()
    process.join()


def _results(receiver: Connection) -> Iterator[Any]:
    """Yield the results for one part: lists of one, until there is None."""
    while True:
        try:
            message = receiver.recv()
        except (EOFError, OSError):  # before a message, or in the middle of one
            raise FusevolError(
                "a process that was reading the log exited unexpectedly; see its messages"
            ) from None
        if message is None:
            return
        if isinstance(message, FusevolError):
            raise message
        yield from message


def _serve(
    parts: Sequence[Part],
    work: Callable[[Part], Iterator[Result]],
    sender: Connection,
    receivers: list[Connection],
) -> None:
    # Ctrl-C reaches all processes of the terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for receiver in receivers:
        receiver.close()
    with contextlib.suppress(BrokenPipeError):
        try:
            for part in parts:
                for result in work(part):
                    sender.send([result])
                sender.send(None)
        except FusevolError as error:
            sender.send(error)
