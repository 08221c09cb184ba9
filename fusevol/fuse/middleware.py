"""What is around every handler: times it, maps errors to errno, finishes it before the reply.

Nothing but FUSEError leaves an answer: any other exception would end pyfuse3's main loop with the
request unanswered. An unexpected exception is logged with its traceback and becomes EIO.

Each request has an entry in the journal while it is served. One that an earlier worker had taken up
finds its entry there: it goes on where that one was, and is not recorded twice. What becomes of the
record is in `recording.recorder`.

An answer is made for each operation when serving begins, and what does not change is bound then.
"""

import contextlib
import errno
import functools
import inspect
import logging
import os
from collections.abc import Awaitable, Callable
from time import perf_counter_ns
from typing import Any, Final

from pyfuse3 import FUSEError

from fusevol.fuse.call_queue import Call, TooLateError
from fusevol.fuse.serving import Serving
from fusevol.fuse.subjects import Subjects
from fusevol.inodes.objects import Opened
from fusevol.record.record import OK, AccessRecord
from fusevol.recording.recorder import OPENING
from fusevol.recovery.journal import (
    CODES,
    INLINE,
    POSITIONED,
    STARTED,
    WHO,
    Entry,
    Journal,
    Key,
)

logger = logging.getLogger(__name__)

Handler = Callable[..., Any]
Answer = Callable[..., Awaitable[Any]]

_TOO_LATE: Final = "deadline"
"""What stands as reason in the records of operations that were given up."""

_UNREAD: Final = AccessRecord()
"""What handlers complete where no record is wanted, which costs less than not to."""


def by_caller(serving: Serving, handler: Handler, *, once: bool = False) -> Answer:
    """Return what answers a request that names its caller: the last argument is a RequestContext.

    Args:
        serving: the mount.
        handler: a method that is named after the operation. It is called with the access record
            before pyfuse3's own arguments, and completes it.
        once: its effect must not take place twice: it gets the journal entry after the record.
    """
    op = handler.__name__
    code = CODES[op]
    begun = code | STARTED
    volume_name, journal, subjects = serving.name, serving.journal, serving.subjects
    inline, words, resumed, begin = journal.inline, journal.words, journal.resumed, journal.begin
    identify, is_identified = serving.callers.identify, op in serving.identified
    admit = _admission(serving, op)
    run = serving.executor.runner(handler)
    in_place = run is None
    finish, free = serving.finish[op], serving.executor.free
    opens = op in OPENING

    @functools.wraps(handler)
    async def answer(*args: Any) -> Any:
        started = perf_counter_ns()
        record = reply = late = None
        number = 0
        ctx = args[-1]
        if in_place and not resumed:
            entry = inline
            words[INLINE + WHO] = ctx.pid
            words[INLINE] = begun
        else:
            if op == "getxattr" and _is_part_of_setxattr(journal, ctx.pid):
                return b""
            entry = begin(code, ctx.pid, 0, not in_place)
        try:
            if entry is not inline:
                entry.repeat_failure()
            if is_identified:
                caller = identify(ctx.pid, started)
                record = AccessRecord(
                    "", -1, volume_name, op, None, None, OK, -1,
                    ctx.uid, ctx.gid, caller.pid, caller.comm, caller.container, caller.error,
                )  # fmt: skip
                if admit is not None:
                    admit(entry)
            else:
                # The thread does for the process where only its capabilities are asked for.
                record = AccessRecord(pid=ctx.pid) if opens else _UNREAD
            given = (record, entry, *args) if once else (record, *args)
            reply = handler(*given) if run is None else await run(*given)
        except Exception as error:
            number = _errno_of(error, op)
            late = _given_up(subjects, record, args, error)
        finish(entry, record, started, number)
        if entry is not inline:
            free(entry, late)
        if number:
            raise FUSEError(number)
        return reply

    return answer


def by_handle(
    serving: Serving,
    handler: Handler,
    *,
    once: bool = False,
    after: Callable[[Any, AccessRecord], None] | None = None,
) -> Answer:
    """Return what answers a request on what is open: the first argument is its handle number.

    The caller is the opener: FUSE does not report the user of a handle.

    Args:
        serving: the mount.
        handler: a method that is named after the operation. It is called with the access record and
            what is open, and pyfuse3's other arguments. One that may have to wait is a coroutine
            function.
        once: its effect must not take place twice: it gets the journal entry after the record.
        after: called with what is open and the record, when that is in the log.
    """
    op = handler.__name__
    code = CODES[op]
    volume_name, journal, subjects = serving.name, serving.journal, serving.subjects
    inline, begin = journal.inline, journal.begin
    path_of, is_recorded = serving.volume.paths.of, op in serving.recorded
    files, directories = serving.volume.files, serving.volume.directories
    get: Callable[[int], Opened] = directories.get if op.endswith("dir") else files.get
    admit = _admission(serving, op)
    is_coroutine = inspect.iscoroutinefunction(handler)
    run = None if is_coroutine else serving.executor.runner(handler)
    waits = is_coroutine or run is not None
    finish, free = serving.finish[op], serving.executor.free
    positioned = op in POSITIONED

    @functools.wraps(handler)
    async def answer(fh: int, *args: Any) -> Any:
        started = perf_counter_ns()
        record = reply = opened = late = None
        number = 0
        entry = begin(code, fh, args[0] if positioned else 0, waits)
        try:
            if entry is not inline:
                entry.repeat_failure()
            opened = _opened(get, fh)
            if is_recorded:
                inode, caller = opened.inode, opened.caller
                record = AccessRecord(
                    "", -1, volume_name, op, path_of(inode), inode.ino, OK, -1,
                    opened.uid, opened.gid, caller.pid, caller.comm, caller.container,
                    caller.error,
                )  # fmt: skip
                if admit is not None:
                    admit(entry)
            else:
                record = AccessRecord()
            given = (record, entry, opened, *args) if once else (record, opened, *args)
            if is_coroutine:
                reply = await handler(*given)
            else:
                reply = handler(*given) if run is None else await run(*given)
        except Exception as error:
            number = _errno_of(error, op)
            late = _given_up(subjects, record, args, error)
        repeated = positioned and entry.is_recorded
        finish(entry, record, started, number, opened)
        if after is not None and record is not None and not repeated:
            after(opened, record)
        if entry is not inline:
            free(entry, late)
        if number:
            raise FUSEError(number)
        return reply

    return answer


def _admission(serving: Serving, op: str) -> Callable[[Entry], None] | None:
    """Return what refuses an operation that could not be recorded, by OSError EIO; None if nothing.

    Closing is never refused.
    """
    admit, pending = serving.admit, serving.journal.pending
    if admit is None or op not in serving.recorded:
        return None

    def admit_with_others(entry: Entry) -> None:
        admit(pending(entry))

    def make_room(entry: Entry) -> None:
        with contextlib.suppress(OSError):
            admit(pending(entry))

    return make_room if op.startswith("release") else admit_with_others


def _given_up(
    subjects: Subjects, record: AccessRecord | None, args: tuple[Any, ...], error: Exception
) -> Call | None:
    """Have the record of what failed say on what; return the call that was given up, if one was."""
    late = error.call if isinstance(error, TooLateError) else None
    if record is None or not record.op:
        return late  # there is no record
    if late is not None:
        record.reason = _TOO_LATE
    if record.path is None:
        try:
            subjects.note(record, args)
        except OSError:
            logger.debug("an inode of %s is not known", record.op)
    return late


def _is_part_of_setxattr(journal: Journal, tid: int) -> bool:
    """Return whether pyfuse3 looks at an attribute before it sets it, as an earlier worker's did.

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


def _opened(get: Callable[[int], Opened], fh: int) -> Opened:
    try:
        return get(fh)
    except KeyError:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None


def _errno_of(error: Exception, op: str) -> int:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, FUSEError):
        return error.errno
    logger.error("%s failed unexpectedly; the client gets EIO", op, exc_info=error)
    return errno.EIO
