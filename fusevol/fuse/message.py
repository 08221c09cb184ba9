"""The request that is being served as the kernel sent it, for what pyfuse3 does not pass on.

pyfuse3 reads a request into a buffer that belongs to the coroutine which serves it, and drops the
node id of a STATFS, and of a WRITE the flags and the caller. The address of the buffer is somewhere
among the coroutine's variables. So each word there is tried: what it points to is the buffer if it
begins with the header of this very request. All is read by way of /proc/self/mem, where a word that
is not an address is an error and nothing worse. It takes some 50 us, and is for requests that are
rare.
"""

import functools
import gc
import logging
import os
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fusevol.inodes.objects import OpenFile
from fusevol.inodes.table import ROOT_INO
from fusevol.volume import lengths
from fusevol.volume.acting import Client

if TYPE_CHECKING:
    from pyfuse3 import RequestContext

logger = logging.getLogger(__name__)

STATFS: Final = 17
"""From linux/fuse.h."""
_HEADER: Final = struct.Struct("IIQQIII4x")  # length, opcode, unique, node id, uid, gid, pid
_WRITE: Final = 16
_WRITE_IN: Final = struct.Struct("QQIIQI")  # handle, offset, size, write flags, lock owner, flags
_FROM_CACHE: Final = 1
"""Of the write flags: mapped memory is written back (FUSE_WRITE_CACHE)."""
_WORD: Final = struct.calcsize("P")

serving: ContextVar[Any] = ContextVar("serving")
"""The coroutine of pyfuse3 that reads and serves requests in this task."""


def with_node_id(opcode: int, answer: Callable[..., Awaitable[Any]]) -> Any:
    """Return an answer that gives `answer` the node id before the RequestContext."""

    @functools.wraps(answer)
    async def answer_with_node_id(ctx: "RequestContext") -> Any:
        return await answer(_node_id(opcode, ctx), ctx)

    return answer_with_node_id


def _node_id(opcode: int, ctx: "RequestContext") -> int:
    """Return on which node the request is; the root if that cannot be found out."""
    for header, _ in _requests(opcode):
        _, _, _, node_id, *caller = header
        if caller == [ctx.uid, ctx.gid, ctx.pid]:
            return node_id
    return ROOT_INO


def is_append(file: OpenFile, offset: int, length: int) -> bool:
    """Return whether the write that is being served is to go to the end of the file.

    `file` was opened with O_APPEND. The request is asked where the offset does not tell, and if
    that cannot be, what is known of the file's length decides.
    """
    if offset == file.inode.size:
        return True
    found = _write_request(file, offset, length)
    if found is None:
        return lengths.is_append(file, offset, length)
    _, kind, flags = found
    return bool(flags & os.O_APPEND) and not kind & _FROM_CACHE


class Writer(NamedTuple):
    """Where a write comes from.

    Attributes:
        client: the thread that called write(2). The opener, if that cannot be found out.
        is_mapped: it has stored to a mapping instead, and the kernel writes that back.
    """

    client: Client
    is_mapped: bool


def writer(file: OpenFile, offset: int, length: int) -> Writer:
    """Return where the write comes from that is being served."""
    found = _write_request(file, offset, length)
    if found is None:
        return Writer(Client(file.uid, file.gid, tid=file.caller.pid), False)
    (_, _, _, _, uid, gid, tid), kind, _ = found
    return Writer(Client(uid, gid, tid=tid), bool(kind & _FROM_CACHE))


def _write_request(
    file: OpenFile, offset: int, length: int
) -> tuple[tuple[int, ...], int, int] | None:
    """Return header, write flags and open flags of the write that is being served, if found."""
    for header, body in _requests(_WRITE):
        fh, begin, size, kind, _, flags = _WRITE_IN.unpack(body)
        if (header[3], fh, begin, size) == (file.inode.ino, file.fh, offset, length):
            return header, kind, flags
    return None


def _requests(opcode: int) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """Yield header and beginning of the body of what may be the request that is being served."""
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            for variables in gc.get_referents(serving.get()):
                for address in _words(memory.fileno(), variables):
                    header = _header(memory.fileno(), address)
                    if header[1] == opcode:
                        yield (
                            header,
                            os.pread(memory.fileno(), _WRITE_IN.size, address + _HEADER.size),
                        )
    except (OSError, LookupError) as error:
        logger.debug("the request cannot be read: %s", error)


def _words(memory: int, variables: object) -> list[int]:
    """Return the words of an object that holds a coroutine's variables."""
    size = type(variables).__basicsize__ // _WORD
    return list(struct.unpack(f"{size}P", os.pread(memory, size * _WORD, id(variables))))


def _header(memory: int, address: int) -> tuple[int, ...]:
    try:
        return _HEADER.unpack(os.pread(memory, _HEADER.size, address))
    except (OSError, OverflowError, struct.error):
        return (0,) * 7
