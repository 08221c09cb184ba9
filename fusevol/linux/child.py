"""Doing something in a process of its own, for what would change this one for good."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Never

from fusevol import errors
from fusevol.errors import FusevolError
from fusevol.linux.process import die_with_parent


def _killed(number: int) -> FusevolError:
    return FusevolError(f"a process of fusevol was killed by signal {number}; try again")


def in_child(work: Callable[[], bytes], killed: Callable[[int], FusevolError] = _killed) -> bytes:
    """Have a child process do something; return what `work` returns. It ends with this process.

    Args:
        work: what to do.
        killed: returns what to raise if a signal, by its number, ended the child.

    Raises:
        FusevolError: what `work` raised, of the same kind if it was one; or what `killed` returned.
    """
    receiving, sending = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _child(work, parent, sending)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if status == 0:
        return said
    if os.WIFSIGNALED(status):
        raise killed(os.WTERMSIG(status))
    kind, _, message = said.partition(b"\n")
    raised: type[FusevolError] = getattr(errors, kind.decode(), FusevolError)
    raise raised(message.decode(errors="surrogateescape"))


def _child(work: Callable[[], bytes], parent: int, sending: int) -> Never:
    status = 1
    try:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(status)
        said = work()
        status = 0
    except BaseException as error:
        kind = type(error).__name__ if isinstance(error, FusevolError) else FusevolError.__name__
        text = str(error) if isinstance(error, FusevolError) else repr(error)
        said = f"{kind}\n{text}".encode(errors="surrogateescape")
    os.write(sending, said)
    os._exit(status)
