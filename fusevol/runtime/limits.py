"""How much memory, time and how many processes a container may have, as Docker words it."""

import math
import os
import re
from typing import Any, Final

import msgspec

from fusevol.errors import UsageError

_SIZE: Final = re.compile(r"(\d+)([bkmg]?)", re.IGNORECASE)
_UNITS: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_LEAST_BYTES: Final = 6 << 20
"""Docker's bound too: less does not hold what starts a command."""
_PERIOD_US: Final = 100_000
"""Over which the kernel shares out the time of processors; its own default."""
_LEAST_QUOTA_US: Final = 1000
"""The kernel's bound (sched(7), cfs_quota_us)."""


class Limits(msgspec.Struct, frozen=True):
    """What a container may use; None for no limit.

    Attributes:
        memory_bytes: memory.
        limits_swap: as much again can be swapped out, and no more, as with Docker.
        processes: processes and threads.
        quota_us: time of processors in each tenth of a second, in microseconds.
    """

    memory_bytes: int | None = None
    limits_swap: bool = False
    processes: int | None = None
    quota_us: int | None = None

    def resources(self) -> dict[str, Any]:
        """Return the limits for config.json (runtime-spec, config-linux.md)."""
        found: dict[str, Any] = {}
        if self.memory_bytes is not None:
            found["memory"] = {"limit": self.memory_bytes}
            if self.limits_swap:
                # Of both together.
                found["memory"]["swap"] = 2 * self.memory_bytes
        if self.processes is not None:
            found["pids"] = {"limit": self.processes}
        if self.quota_us is not None:
            found["cpu"] = {"quota": self.quota_us, "period": _PERIOD_US}
        return found

    def files(self) -> dict[str, tuple[tuple[str, str], ...]]:
        """Return by option what the kernel has to say then: a file of the control group, its text.

        One of them, of version 2 or of version 1 (cgroups(7)).
        """
        found: dict[str, tuple[tuple[str, str], ...]] = {}
        if self.memory_bytes is not None:
            # The kernel counts pages.
            page = os.sysconf("SC_PAGE_SIZE")
            said = str(self.memory_bytes // page * page)
            found["--memory"] = (("memory.max", said), ("memory.limit_in_bytes", said))
        if self.processes is not None:
            found["--pids-limit"] = (("pids.max", str(self.processes)),)
        if self.quota_us is not None:
            found["--cpus"] = (
                ("cpu.max", f"{self.quota_us} {_PERIOD_US}"),
                ("cpu.cfs_quota_us", str(self.quota_us)),
            )
        return found


def parse_limits(
    memory: str | None, processes: int | None, cpus: float | None, can_limit_swap: bool
) -> Limits:
    """Return what `--memory`, `--pids-limit` and `--cpus` say; 0 and -1 stand for no limit.

    Args:
        memory, processes, cpus: the words; None where there are none.
        can_limit_swap: this host can (`containers.cgroup`).

    Raises:
        UsageError: one is not valid.
    """
    return Limits(_memory(memory), can_limit_swap, _processes(processes), _quota(cpus))


def _memory(word: str | None) -> int | None:
    if word is None:
        return None
    found = _SIZE.fullmatch(word)
    size = int(found[1]) * _UNITS[found[2].lower()] if found else -1
    if size != 0 and not _LEAST_BYTES <= size < 1 << 62:
        raise UsageError(f"invalid --memory {word}: expected a size such as 512m, at least 6m")
    return size or None


def _processes(number: int | None) -> int | None:
    if number is None or number in (0, -1):
        return None
    if not 0 < number < 1 << 31:
        raise UsageError(f"invalid --pids-limit {number}: expected a number, -1 for no limit")
    return number


def _quota(cpus: float | None) -> int | None:
    if cpus is None or cpus == 0:
        return None
    quota = cpus * _PERIOD_US
    if not math.isfinite(quota) or not _LEAST_QUOTA_US <= quota < 1 << 40:
        raise UsageError(f"invalid --cpus {cpus:g}: expected a number such as 1.5, at least 0.01")
    return int(quota)
