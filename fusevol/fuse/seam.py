"""The seam around every handler: times it, maps errors to errno, records it before the reply.

Nothing but FUSEError leaves a handler: any other exception would end pyfuse3's main loop with the
request unanswered. An unexpected exception is logged with its traceback and becomes EIO.
"""

import errno
import functools
import inspect
import logging
import os
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from pyfuse3 import FUSEError

from fusevol.accesslog.record import OK, AccessRecord, errno_name

if TYPE_CHECKING:
    from fusevol.accesslog.writer import LogWriter
    from fusevol.fuse.operations import Operations
    from fusevol.inodes.opened import Opened
    from fusevol.volume.volume import Volume

logger = logging.getLogger(__name__)

Handler = Callable[..., Any]

NOT_AT_DATA: Final = frozenset(
    ("lookup", "getattr", "readlink", "getxattr", "listxattr", "statfs", "readdir")
)
"""Operations that the level `data` leaves out: caching hides most of them anyway."""


_BY_NAME: Final = frozenset(
    ("lookup", "mknod", "mkdir", "symlink", "unlink", "rmdir", "rename", "create")
)
"""Operations on a name in a directory; their first arguments are the two."""


def by_caller(op: str) -> Callable[[Handler], Any]:
    """Answer a request that names its caller: the last argument is a RequestContext.

    The handler is called with the access record before pyfuse3's own arguments and completes it.
    """

    def decorate(handler: Handler) -> Any:
        @functools.wraps(handler)
        async def answer(self: "Operations", *args: Any) -> Any:
            started = perf_counter_ns()
            record = reply = None
            number = 0
            try:
                ctx = args[-1]
                caller = self.callers.identify(ctx.pid, started)
                record = AccessRecord(
                    "", -1, self.name, op, None, None, OK, -1,
                    ctx.uid, ctx.gid, caller.pid, caller.comm, caller.container,
                )  # fmt: skip
                if self.admit is not None:
                    _admit(self, record, args)
                if self.serially is None:
                    reply = handler(self, record, *args)
                else:
                    reply = await self.serially(handler, self, record, *args)
            except Exception as error:
                number = _errno_of(error, op)
            if op in self.logged:
                _record(self.log, record, started, number)
            if number:
                raise FUSEError(number)
            return reply

        answer.unrecorded = functools.partial(_unrecorded, handler, op)  # type: ignore[attr-defined]
        return answer

    return decorate


def _admit(operations: "Operations", record: AccessRecord, args: tuple[Any, ...]) -> None:
    """Refuse an operation that could not be recorded; its record, if any, then tells on what.

    Raises:
        OSError: EIO if the operation must not have any effect.
    """
    assert operations.admit is not None
    try:
        operations.admit()
    except OSError:
        volume = operations.volume
        if record.op == "statfs":
            record.path = "/"
        elif record.op in _BY_NAME:
            record.path = volume.paths.child(volume.directory(args[0]), args[1])
        else:
            record.path = volume.paths.of(volume.inode(args[0]))
        raise


def _unrecorded(handler: Handler, op: str, operations: "Operations") -> Handler:
    """Return an answer to requests that name their caller, for operations that are not recorded.

    The handler completes a record that nobody reads, which costs less than not to.
    """
    record = AccessRecord()

    async def answer(*args: Any) -> Any:
        try:
            if operations.serially is None:
                return handler(operations, record, *args)
            return await operations.serially(handler, operations, record, *args)
        except Exception as error:
            raise FUSEError(_errno_of(error, op)) from None

    return answer


def by_handle(op: str) -> Callable[[Handler], Any]:
    """Answer a request on an open file or directory: the first argument is its handle number.

    The handler is called with the access record and what is open. The caller is the opener: FUSE
    does not tell who uses a handle. A handler that may have to wait is a coroutine function.
    """

    def decorate(handler: Handler) -> Any:
        waits = inspect.iscoroutinefunction(handler)
        of_directory = op.endswith("dir")

        @functools.wraps(handler)
        async def answer(self: "Operations", fh: int, *args: Any) -> Any:
            started = perf_counter_ns()
            record = reply = None
            number = 0
            try:
                opened = _opened(self.volume, fh, of_directory)
                inode, caller = opened.inode, opened.caller
                record = AccessRecord(
                    "", -1, self.name, op, self.volume.paths.of(inode), inode.ino, OK, -1,
                    opened.uid, opened.gid, caller.pid, caller.comm, caller.container,
                )  # fmt: skip
                if self.admit is not None and not op.startswith("release"):
                    self.admit()
                if waits:
                    reply = await handler(self, record, opened, *args)
                elif self.serially is None:
                    reply = handler(self, record, opened, *args)
                else:
                    reply = await self.serially(handler, self, record, opened, *args)
            except Exception as error:
                number = _errno_of(error, op)
            if op in self.logged:
                _record(self.log, record, started, number)
            if number:
                raise FUSEError(number)
            return reply

        return answer

    return decorate


def _opened(volume: "Volume", fh: int, of_directory: bool) -> "Opened":
    try:
        return volume.directories.get(fh) if of_directory else volume.files.get(fh)
    except KeyError:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None


def _record(log: "LogWriter", record: AccessRecord | None, started: int, number: int) -> None:
    """Record an operation that ended with errno `number`; 0 is success."""
    if record is None:
        return
    try:
        if number:
            record.result = errno_name(number)
        log.append(record, started)
    except Exception:
        logger.exception("a record of %s could not be written", record.op)


def _errno_of(error: Exception, op: str) -> int:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, FUSEError):
        return error.errno
    logger.error("%s failed unexpectedly; the client gets EIO", op, exc_info=error)
    return errno.EIO
