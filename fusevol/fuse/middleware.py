"""What is around every handler: times it, maps errors to errno, finishes it before the reply.

Nothing but FUSEError leaves a handler: any other exception would end pyfuse3's main loop with the
request unanswered. An unexpected exception is logged with its traceback and becomes EIO.

Each request has an entry in the journal while it is served. One that an earlier worker had taken up
finds its entry there: it goes on where that one was, and is not recorded twice. What becomes of the
record is in `recorder`.
"""

import errno
import functools
import inspect
import logging
import os
from collections.abc import Awaitable, Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, Protocol

from pyfuse3 import FUSEError

from fusevol.fuse.call_queue import Call, TooLateError
from fusevol.fuse.deadline import REASON
from fusevol.record.record import OK, AccessRecord
from fusevol.recovery.journal import (
    CODES,
    INLINE,
    POSITIONED,
    RECORDED,
    STARTED,
    WHERE,
    WHO,
    Entry,
    Journal,
    Key,
)

if TYPE_CHECKING:
    from fusevol.fuse.deadline import Deadline
    from fusevol.fuse.finish import Finish
    from fusevol.inodes.objects import Opened
    from fusevol.recording.caller import Callers
    from fusevol.volume.volume import Volume

logger = logging.getLogger(__name__)

Handler = Callable[..., Any]


class Serving(Protocol):
    """What handlers are methods of, `Operations`, as far as the middleware knows it."""

    name: str
    volume: "Volume"
    journal: Journal
    callers: "Callers"
    recorded: frozenset[str]
    finish: "dict[str, Finish]"
    admit: Callable[[int], None] | None
    serially: Callable[..., Awaitable[Any]] | None
    deadline: "Deadline | None"


OPENING: Final = frozenset(("open", "create", "opendir"))
"""Operations whose caller is kept, for the records of what is done with the handle."""

_UNREAD: Final = AccessRecord()
"""What handlers complete where no record is wanted, which costs less than not to."""

_BY_NAME: Final = frozenset(
    ("lookup", "mknod", "mkdir", "symlink", "unlink", "rmdir", "rename", "create")
)
"""Operations on a name in a directory; their first arguments are the two."""


def by_caller(op: str, once: bool = False) -> Callable[[Handler], Any]:
    """Answer a request that names its caller: the last argument is a RequestContext.

    The handler is called with the access record before pyfuse3's own arguments and completes it;
    if its effect must not take place twice (`once`), the journal entry comes after the record.
    """

    def decorate(handler: Handler) -> Any:
        answer = _answer_to_caller(handler, op, once, identified=True)
        answer.unrecorded = _answer_to_caller(handler, op, once, identified=False)
        return answer

    return decorate


def _answer_to_caller(handler: Handler, op: str, once: bool, identified: bool) -> Any:
    """Return what answers; without the caller being `identified` there is nothing to record."""
    code = CODES[op]
    begun = code | STARTED
    opens = op in OPENING

    @functools.wraps(handler)
    async def answer(self: Serving, *args: Any) -> Any:
        started = perf_counter_ns()
        record = reply = late = None
        number = 0
        ctx = args[-1]
        journal = self.journal
        if self.serially is None and not journal.resumed:
            entry = journal.inline
            words = journal.words
            words[INLINE + WHO] = ctx.pid
            words[INLINE] = begun
        else:
            if op == "getxattr" and _is_part_of_setxattr(journal, ctx.pid):
                return b""
            entry = _take_up(self, code, ctx.pid, 0, self.serially is not None)
        try:
            if entry is not journal.inline:
                _repeat_failure(entry)
            if identified:
                caller = self.callers.identify(ctx.pid, started)
                record = AccessRecord(
                    "", -1, self.name, op, None, None, OK, -1,
                    ctx.uid, ctx.gid, caller.pid, caller.comm, caller.container, caller.error,
                )  # fmt: skip
                if self.admit is not None:
                    _admit(self, record, entry, args)
            else:
                # The thread does for the process where only its capabilities are asked for.
                record = AccessRecord(pid=ctx.pid) if opens else _UNREAD
            given = (record, entry, *args) if once else (record, *args)
            if self.serially is None:
                reply = handler(self, *given)
            else:
                reply = await self.serially(handler, self, *given)
        except Exception as error:
            number = _errno_of(error, op)
            late = _given_up(self, record, args, error)
        self.finish[op](entry, record, started, number)
        if entry is not journal.inline:
            _finish(self, entry, late)
        if number:
            raise FUSEError(number)
        return reply

    return answer


def _admit(operations: Serving, record: AccessRecord, entry: Entry, args: tuple[Any, ...]) -> None:
    """Refuse an operation that could not be recorded; its record, if any, then tells on what.

    Raises:
        OSError: EIO if the operation must not have any effect.
    """
    assert operations.admit is not None
    if record.op not in operations.recorded:
        return
    try:
        operations.admit(operations.journal.pending(entry))
    except OSError:
        _note_path(operations, record, args)
        raise


def _admit_to(operations: Serving, op: str, entry: Entry) -> None:
    """Refuse an operation on a handle that could not be recorded; closing is never refused.

    Raises:
        OSError: EIO if the operation must not have any effect.
    """
    assert operations.admit is not None
    try:
        operations.admit(operations.journal.pending(entry))
    except OSError:
        if not op.startswith("release"):
            raise


def _note_path(operations: Serving, record: AccessRecord, args: tuple[Any, ...]) -> None:
    """Note on what an operation was to be whose handler was not called."""
    volume = operations.volume
    if record.op in _BY_NAME:
        record.path = volume.paths.child(volume.directory(args[0]), args[1])
    else:
        record.path = volume.paths.of(volume.inode(args[0]))


def _given_up(
    operations: Serving,
    record: AccessRecord | None,
    args: tuple[Any, ...],
    error: Exception,
) -> Call | None:
    """Return the call that was given up, if `error` says so, after the record has got to say it."""
    if not isinstance(error, TooLateError):
        return None
    if record is None or not record.op:
        return error.call  # there is no record
    record.reason = REASON
    if record.path is None:
        try:
            _note_path(operations, record, args)
        except OSError:
            logger.debug("an inode of %s is not known", record.op)
    return error.call


def _finish(operations: Serving, entry: Entry, late: Call | None) -> None:
    """Free the entry of a request when its reply has left; later if it is still worked on."""
    if late is None:
        operations.journal.finished.append(entry)
    else:
        assert operations.deadline is not None
        operations.deadline.keep(entry, late)


def _take_up(operations: Serving, code: int, who: int, where: int, waits: bool) -> Entry:
    """Return the entry of a request: the one an earlier worker began, or a new one."""
    journal = operations.journal
    if journal.resumed:
        entry = journal.resume(Key(code, who, where))
        if entry is not None:
            return entry
    entry = journal.take() if waits else journal.inline
    words, at = journal.words, entry.at
    words[at + WHO] = who
    words[at + WHERE] = where
    words[at] = code | STARTED
    return entry


def _repeat_failure(entry: Entry) -> None:
    """Fail as the operation has failed before, if its record says so."""
    if entry.phase == RECORDED and entry.errno:
        raise OSError(entry.errno, os.strerror(entry.errno))


def _is_part_of_setxattr(journal: Journal, tid: int) -> bool:
    """Tell whether pyfuse3 looks at an attribute before it sets it, as an earlier worker's did.

    It does so for XATTR_CREATE and XATTR_REPLACE. That worker has got as far as to set it, so the
    attribute may be there by now; what counts is how it was before.

    Raises:
        FUSEError: ENODATA if it was not there then.
    """
    entries = journal.resumed.get(Key(CODES["setxattr"], tid))
    if not entries:
        return False
    if entries[-1].xattr_flags == os.XATTR_CREATE:
        raise FUSEError(errno.ENODATA)
    return True


def by_handle(
    op: str,
    once: bool = False,
    after: Callable[[Any, Any, AccessRecord], None] | None = None,
) -> Callable[[Handler], Any]:
    """Answer a request on an open file or directory: the first argument is its handle number.

    The handler is called with the access record and what is open, and with the journal entry
    between the two if its effect must not take place twice (`once`). The caller is the opener: FUSE
    does not tell who uses a handle. A handler that may have to wait is a coroutine function.
    `after` is called when the record is in the log.
    """

    def decorate(handler: Handler) -> Any:
        answer = _answer_to_user(handler, op, once, after, recorded=True)
        answer.unrecorded = _answer_to_user(handler, op, once, after, recorded=False)
        return answer

    return decorate


def _answer_to_user(
    handler: Handler,
    op: str,
    once: bool,
    after: Callable[[Any, Any, AccessRecord], None] | None,
    recorded: bool,
) -> Any:
    code = CODES[op]
    positioned = op in POSITIONED
    waits = inspect.iscoroutinefunction(handler)
    of_directory = op.endswith("dir")

    @functools.wraps(handler)
    async def answer(self: Serving, fh: int, *args: Any) -> Any:
        started = perf_counter_ns()
        record = reply = opened = late = None
        number = 0
        journal = self.journal
        where = args[0] if positioned else 0
        entry = _take_up(self, code, fh, where, waits or self.serially is not None)
        try:
            if entry is not journal.inline:
                _repeat_failure(entry)
            opened = _opened(self.volume, fh, of_directory)
            if recorded:
                inode, caller = opened.inode, opened.caller
                record = AccessRecord(
                    "", -1, self.name, op, self.volume.paths.of(inode), inode.ino, OK, -1,
                    opened.uid, opened.gid, caller.pid, caller.comm, caller.container,
                    caller.error,
                )  # fmt: skip
                if self.admit is not None:
                    _admit_to(self, op, entry)
            else:
                record = AccessRecord()
            given = (record, entry, opened, *args) if once else (record, opened, *args)
            if waits:
                reply = await handler(self, *given)
            elif self.serially is None:
                reply = handler(self, *given)
            else:
                reply = await self.serially(handler, self, *given)
        except Exception as error:
            number = _errno_of(error, op)
            late = _given_up(self, record, args, error)
        repeated = positioned and entry.phase == RECORDED
        self.finish[op](entry, record, started, number, opened)
        if after is not None and record is not None and not repeated:
            after(self, opened, record)
        if entry is not journal.inline:
            _finish(self, entry, late)
        if number:
            raise FUSEError(number)
        return reply

    return answer


def _opened(volume: "Volume", fh: int, of_directory: bool) -> "Opened":
    try:
        return volume.directories.get(fh) if of_directory else volume.files.get(fh)
    except KeyError:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None


def _errno_of(error: Exception, op: str) -> int:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, FUSEError):
        return error.errno
    logger.error("%s failed unexpectedly; the client gets EIO", op, exc_info=error)
    return errno.EIO
