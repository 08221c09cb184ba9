"""Which mounts there are, and what their counters say."""

import contextlib
import os
import select
from typing import Final, NamedTuple, Self

from fusevol.daemon import registry
from fusevol.daemon.registry import Served
from fusevol.errors import FusevolError
from fusevol.recovery import counters
from fusevol.recovery.counters import Snapshot

Key = tuple[str, int]
"""Mount point and st_dev of a mount: no two mounts share them, also one after the other."""


def key_of(served: Served) -> Key:
    """Return what tells a mount from all others."""
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
        # The kernel's way to tell that something was mounted or unmounted: proc_pid_mounts(5).
        self._changes.register(table, select.POLLPRI | select.POLLERR)
        self._seen = -1
        self._known: list[Served] = []

    def now(self) -> list[Served]:
        """Return the mounts of the user, in the order of their mount points.

        Raises:
            NotPermittedError: the runtime directory belongs to somebody else.
        """
        # Asked before reading, so that no change after it goes unnoticed.
        seen = os.stat(registry.runtime_directory()).st_mtime_ns
        has_changed = bool(self._changes.poll(0))
        if has_changed or seen != self._seen:
            self._known = registry.all_served()
            self._seen = seen
        return self._known


class Reading(NamedTuple):
    """What the counters of a mount said, or why they said nothing."""

    snapshot: Snapshot | None
    trouble: str = ""


class CounterFiles:
    """The recovery states of mounts, open for their counters. One thread only; to be closed."""

    def __init__(self) -> None:
        self._fds: dict[Key, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.forget_others(set())

    def read(self, served: Served) -> Reading:
        """Return the counters of a mount.

        The state stays the same as long as the mount does, whoever keeps it, so that it is opened
        once: it can be read also while there is neither keeper nor worker.
        """
        key = key_of(served)
        try:
            if key not in self._fds:
                self._fds[key] = _opened(served)
            return Reading(counters.read(self._fds[key]))
        except PermissionError:
            return Reading(None, "its counters are not yours to read; run as who serves it")
        except FileNotFoundError:
            return Reading(None, "nobody keeps it at the moment")
        except OSError as error:
            return Reading(None, f"cannot read its counters: {error.strerror}")
        except FusevolError as error:
            os.close(self._fds.pop(key))
            return Reading(None, f"cannot read its counters: {error}")

    def forget_others(self, keys: set[Key]) -> None:
        """Close those of all mounts but these."""
        for key in self._fds.keys() - keys:
            os.close(self._fds.pop(key))


_READ_ONLY: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def _opened(served: Served) -> int:
    # Not to wait, should the number have gone to something else: a FIFO waits for a writer.
    return os.open(f"/proc/{served.pid}/fd/{served.state_fd}", _READ_ONLY)
