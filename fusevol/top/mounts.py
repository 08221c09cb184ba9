"""Which mounts there are, and what their counters say."""

import contextlib
import errno
import os
import select
import time
from typing import Final, NamedTuple, Self

from fusevol.errors import FusevolError
from fusevol.mounts import registry
from fusevol.mounts.registry import MountEntry
from fusevol.recovery import counters
from fusevol.recovery.counters import Snapshot

_CLOCK_STEP_NS: Final = 50_000_000

Key = tuple[str, int]
"""Mount point and st_dev of a mount, which no two have at a time."""


def key_of(served: MountEntry) -> Key:
    """Return what identifies a mount."""
    return served.mountpoint, served.device


class Mounts(contextlib.ExitStack):
    """The mounts that are served. One thread only; to be closed.

    Looks at the directory of the registry only when it or the table of mounts has changed.
    """

    def __init__(self) -> None:
        super().__init__()
        table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self.callback(os.close, table)
        self._changes = select.poll()
        # The kernel's way to signal a mount or unmount: proc_pid_mounts(5).
        self._changes.register(table, select.POLLPRI | select.POLLERR)
        self._seen = -1
        self._known: list[MountEntry] = []

    def now(self) -> list[MountEntry]:
        """Return the mounts of the user, in the order of their mount points.

        Raises:
            NotPermittedError: the runtime directory belongs to somebody else.
        """
        # Asked before reading, so that no change after it goes unnoticed.
        seen = os.stat(registry.runtime_directory()).st_mtime_ns
        has_changed = bool(self._changes.poll(0))
        if has_changed or seen != self._seen:
            self._known = registry.all_served()
            # The clock of files has steps: within one, a later change has the same time.
            self._seen = seen if time.time_ns() - seen > _CLOCK_STEP_NS else -1
        return self._known


class CounterReading(NamedTuple):
    """What the counters of a mount said, or why they said nothing.

    Attributes:
        state: identifies the recovery state that they are in.
    """

    snapshot: Snapshot | None
    state: int = -1
    trouble: str = ""


class CounterFiles:
    """The recovery states of mounts, open for their counters. One thread only; to be closed."""

    def __init__(self) -> None:
        self._fds: dict[Key, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.forget_others(set())

    def read(self, served: MountEntry) -> CounterReading:
        """Return the counters of a mount.

        Its state stays open, so that it can be read also while nobody keeps the mount.
        """
        key = key_of(served)
        try:
            self._open(key, served)
            fd = self._fds[key]
            return CounterReading(counters.read(fd), os.fstat(fd).st_ino)
        except PermissionError:
            return CounterReading(None, trouble="you may not read its counters; run as its owner")
        except FileNotFoundError:
            return CounterReading(None, trouble="it has no keeper right now")
        except OSError as error:
            return CounterReading(None, trouble=f"cannot read its counters: {error.strerror}")
        except FusevolError as error:
            os.close(self._fds.pop(key))
            return CounterReading(None, trouble=f"cannot read its counters: {error}")

    def _open(self, key: Key, served: MountEntry) -> None:
        """Have the state of a mount open, also if it is that of a new one at the old place."""
        known = self._fds.get(key)
        try:
            path = f"/proc/{served.pid}/fd/{served.state_fd}"
            if not served.keeper.runs():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            if known is not None and os.path.samestat(os.stat(path), os.fstat(known)):
                return
            # Not to wait, should the number have gone to something else: a FIFO waits for a writer.
            self._fds[key] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            if known is None:
                raise
            return  # Its keeper has died, and the state is what it was.
        if known is not None:
            os.close(known)

    def forget_others(self, keys: set[Key]) -> None:
        """Close those of all mounts but these."""
        for key in self._fds.keys() - keys:
            os.close(self._fds.pop(key))
