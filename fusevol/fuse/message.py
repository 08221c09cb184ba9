"""The request that is being served as the kernel sent it, for what pyfuse3 does not pass on.

pyfuse3 reads a request into a buffer that belongs to the coroutine which serves it, and drops the
node id of a STATFS. The address of the buffer is somewhere among the coroutine's variables. So each
word there is tried: what it points to is the buffer if it begins with the header of this very
request. All is read by way of /proc/self/mem, where a word that is no address is an error and
nothing worse. It takes some 50 us, and is for requests that are rare.
"""

import functools
import gc
import logging
import os
import struct
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from fusevol.inodes.table import ROOT_INO

if TYPE_CHECKING:
    from pyfuse3 import RequestContext

logger = logging.getLogger(__name__)

STATFS: Final = 17
"""From linux/fuse.h."""
_HEADER: Final = struct.Struct("IIQQIII")  # length, opcode, unique, node id, uid, gid, pid
_WORD: Final = struct.calcsize("P")

serving: ContextVar[Any] = ContextVar("serving")
"""The coroutine of pyfuse3 that reads and serves requests in this task."""


def with_node_id(opcode: int) -> Callable[[Any], Any]:
    """Give an answer of `seam.by_caller` the node id before the RequestContext."""

    def decorate(answer: Any) -> Any:
        wrapped = _with_node_id(answer, opcode)
        wrapped.unrecorded = _with_node_id(answer.unrecorded, opcode)
        return wrapped

    return decorate


def _with_node_id(answer: Any, opcode: int) -> Any:
    @functools.wraps(answer)
    async def wrapped(self: Any, ctx: "RequestContext") -> Any:
        return await answer(self, _node_id(opcode, ctx), ctx)

    return wrapped


def _node_id(opcode: int, ctx: "RequestContext") -> int:
    """Return on which node the request is; the root if that cannot be found out."""
    wanted = (opcode, ctx.uid, ctx.gid, ctx.pid)
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            for variables in gc.get_referents(serving.get()):
                for address in _words(memory.fileno(), variables):
                    _, code, _, node_id, *caller = _header(memory.fileno(), address)
                    if (code, *caller) == wanted:
                        return node_id
    except (OSError, LookupError) as error:
        logger.debug("the request cannot be read: %s", error)
    return ROOT_INO


def _words(memory: int, variables: object) -> list[int]:
    """Return the words of an object that holds a coroutine's variables."""
    size = type(variables).__basicsize__ // _WORD
    return list(struct.unpack(f"{size}P", os.pread(memory, size * _WORD, id(variables))))


def _header(memory: int, address: int) -> tuple[int, ...]:
    try:
        return _HEADER.unpack(os.pread(memory, _HEADER.size, address))
    except (OSError, OverflowError, struct.error):
        return (0,) * 7
