"""The descriptors that are the keeper's own, in the table that it shares with its worker.

Whatever else is open belongs to the mount, as the recovery state says, or was the worker's, and is
closed when the worker has died. So all that the keeper keeps open is noted here.
"""

import contextlib
import os
import selectors
from collections.abc import Callable
from typing import Protocol

from fusevol.processes import handover
from fusevol.recovery.region import Region


class Descriptor(Protocol):
    """What has a descriptor, and closes it."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def close(self) -> None:
        """Close it."""


class Pidfd:
    """A process, by a descriptor that can be read when it has ended.

    Attributes:
        pid: its id, which is no other's before it has been waited for.
    """

    def __init__(self, pid: int) -> None:
        """Open it.

        Raises:
            OSError: ProcessLookupError if there is no such process; EMFILE.
        """
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


class OwnDescriptors:
    """What the keeper has open for itself, and what it waits for."""

    def __init__(self, region: Region) -> None:
        """Begin with what is open and not the mount's; there is no worker yet."""
        self._region = region
        self._selector = selectors.DefaultSelector()
        self._numbers = _open_descriptors() - handover.descriptors(region)

    def keep(self, fd: int) -> int:
        """Take a descriptor for one of the keeper's own; return it."""
        self._numbers.add(fd)
        return fd

    def watch(self, source: Descriptor, obey: Callable[[], None]) -> None:
        """Take over a descriptor, and have `obey` called by `wait` when it can be read."""
        self._selector.register(source, selectors.EVENT_READ, obey)
        self._numbers.add(source.fileno())

    def close(self, source: Descriptor) -> None:
        """Close what was kept or is watched."""
        if source in self._selector.get_map():
            self._selector.unregister(source)
        self._numbers.discard(source.fileno())
        source.close()

    def wait(self, timeout: float | None) -> None:
        """Wait for what is watched, `timeout` seconds at most, and have it obeyed."""
        for key, _ in self._selector.select(timeout):
            # What was called before may have ended others.
            if self._selector.get_map().get(key.fd) is key:
                key.data()

    def close_others(self) -> None:
        """Close what a worker that has died had open for itself."""
        wanted = self._numbers | handover.descriptors(self._region)
        for fd in set(map(int, os.listdir("/proc/self/fd"))) - wanted:
            # That of the listing itself is closed already.
            with contextlib.suppress(OSError):
                os.close(fd)


def _open_descriptors() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            os.fstat(fd)
        except OSError:
            continue  # the listing's own
        found.add(fd)
    return found
