"""Rotation: a log that is large or old enough is renamed, and the worker begins a new one."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from fusevol.logs.lines import LogFile
from fusevol.logs.log_files import rotated_by_fusevol
from fusevol.logs.reader import parse
from fusevol.options.log import LogOptions
from fusevol.record.record import MalformedRecordError

_PART_OF_QUOTA: Final = 8
"""A log with a quota and no size is rotated at this part of it, so that there is what to remove."""
_FIRST_LINE_BYTES: Final = 1 << 16


def is_in_use(path: str) -> bool:
    """Return whether a worker still writes to a file that was renamed: it holds a lock on it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class Rotation:
    """Rotates one log."""

    def __init__(self, path: str, options: LogOptions, reopen: Callable[[], None]) -> None:
        """Prepare; `reopen` has the worker reopen its log."""
        self._path = os.path.realpath(path)
        self._size = options.rotate_size or options.quota // _PART_OF_QUOTA
        self._age = options.rotate_age
        self._reopen = reopen
        self._file = (0, 0)
        self._begun = 0.0
        self._last = ""

    def go_on(self) -> bool:
        """Rotate if it is time to; return whether that was done.

        Raises:
            OSError: the log cannot be looked at or renamed.
        """
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            # By an agent that was killed before it could ask, or by somebody else.
            self._reopen()
            return False
        if status.st_size == 0 or not self._is_due(status):
            return False
        if self._last and os.path.exists(self._last) and is_in_use(self._last):
            self._reopen()
            return False
        self._last = self._new_name()
        os.rename(self._path, self._last)
        self._reopen()
        return True

    def leave_a_file(self) -> None:
        """Make the log if a worker that has ended did not any more; OSError if that fails."""
        if self._last and not os.path.exists(self._path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._path, flags, 0o600))

    def _is_due(self, status: os.stat_result) -> bool:
        if self._size and status.st_size >= self._size:
            return True
        if not self._age:
            return False
        file = (status.st_dev, status.st_ino)
        if file != self._file:
            self._file, self._begun = file, _begin_of(self._path)
        return time.time() - self._begun >= self._age

    def _new_name(self) -> str:
        """Return a name that is free, and behind those of earlier ones also if a clock steps."""
        moment = datetime.now(UTC)
        existing = rotated_by_fusevol(self._path)
        while True:
            text = moment.strftime("%Y%m%dT%H%M%S.%f")[:-3]
            name = f"{self._path}-{text}"
            if not existing or name > existing[-1].removesuffix(".zst"):
                return name
            last = existing[-1].removesuffix(".zst").rpartition("-")[2]
            moment = datetime.strptime(last, "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
            moment += timedelta(milliseconds=1)


def _begin_of(path: str) -> float:
    """Return when the first record of a log was written, in seconds since 1970; now if unknown."""
    with LogFile(path) as file:
        line, newline, _rest = file.read_at(0, _FIRST_LINE_BYTES).partition(b"\n")
    try:
        return datetime.fromisoformat(parse(line).time).timestamp() if newline else time.time()
    except (MalformedRecordError, ValueError):
        return time.time()
