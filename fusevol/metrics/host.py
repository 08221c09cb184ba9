"""Values of the host for the metrics: of processes (proc_pid_stat(5)), and free space."""

import os
import threading
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_BOOT_NS: Final = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
"""When the host was booted, in nanoseconds since 1970; read once, so that it does not move."""
_ANSWER_S: Final = 0.02
"""How long a file system may take to say how much is free before it is left out."""


class ProcessUsage(NamedTuple):
    """What a process has used.

    Attributes:
        cpu_s: processor time, in seconds, of its own.
        resident_bytes: its memory, with what it shares with others.
        started_ns: since when it runs, in nanoseconds since 1970.
    """

    cpu_s: float
    resident_bytes: int
    started_ns: int


def process(pid: int) -> ProcessUsage | None:
    """Return what a process has used so far; None if it has ended, or `pid` is 0."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in (b"Z", b"X"):
        return None
    return ProcessUsage(
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS,
        resident_bytes=int(fields[21]) * _PAGE_BYTES,
        started_ns=_BOOT_NS + int(fields[19]) * 10**9 // _TICKS,
    )


class FreeSpace:
    """How much is free on file systems, of which one may hang: it holds up itself only."""

    def __init__(self) -> None:
        self._asking: dict[str, threading.Thread] = {}
        self._free: dict[str, int] = {}

    def of(self, directories: Iterable[str]) -> dict[str, int]:
        """Return directory -> bytes free for others than root; without those that do not answer."""
        for directory in set(directories) - self._asking.keys():
            asking = threading.Thread(target=self._ask, args=(directory,), daemon=True)
            self._asking[directory] = asking
            asking.start()
        end = time.monotonic() + _ANSWER_S
        for directory, asking in list(self._asking.items()):
            asking.join(max(0.0, end - time.monotonic()))
            if not asking.is_alive():
                del self._asking[directory]
        free, self._free = self._free, {}
        return free

    def _ask(self, directory: str) -> None:
        try:
            status = os.statvfs(directory)
        except OSError:
            return
        self._free[directory] = status.f_bavail * status.f_frsize
