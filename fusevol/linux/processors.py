"""On which processor threads run."""

import os

from fusevol.linux.libc import quick_libc

_PROCESSOR = 36
"""Index of `processor` among the fields behind the name in /proc/PID/stat (proc_pid_stat(5))."""


def processor_of(tid: int) -> int | None:
    """Return the processor that thread `tid` last ran on; None if it is gone."""
    try:
        fd = os.open(f"/proc/{tid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # The name may hold anything, a parenthesis too.
        return int(os.read(fd, 4096).rpartition(b") ")[2].split()[_PROCESSOR])
    except (OSError, IndexError, ValueError):
        return None
    finally:
        os.close(fd)


def current_processor() -> int:
    """Return the processor that the calling thread runs on."""
    processor: int = quick_libc.sched_getcpu()
    return processor
