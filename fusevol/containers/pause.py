"""Holding a container still while something looks at what it changed.

All its processes are frozen by its control group. A watcher, a process of its own, lets them go on
when the one who froze them is done or has ended in any way, SIGKILL too.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fusevol.containers import cgroup
from fusevol.containers.state import Container
from fusevol.errors import FusevolError

_FREEZING_S: Final = 10.0
_POLL_S: Final = 0.005


@contextmanager
def held_still(container: Container) -> Iterator[bool]:
    """Freeze the container inside the block; yield whether it stands still, as an ended one does.

    Raises:
        FusevolError: it does not come to a standstill, because a process in it waits for a device.
    """
    if not container.is_running:
        yield True
        return
    ours, watchers = os.pipe2(os.O_CLOEXEC)
    watcher = _watch(container.id, ours, watchers)
    os.close(ours)
    try:
        frozen = cgroup.freeze(container.id, True)
        if frozen:
            _await_frozen(container)
        yield frozen or not container.is_running
    finally:
        os.close(watchers)
        os.waitpid(watcher, 0)


def _watch(container_id: str, reading: int, writing: int) -> int:
    """Start the watcher, which thaws when nobody can write to the pipe any more."""
    pid = os.fork()
    if pid:
        # What a terminal sends to all processes of a command should not end this one.
        os.setpgid(pid, pid)
        return pid
    try:
        os.close(writing)
        os.read(reading, 1)
        cgroup.freeze(container_id, False)
    finally:
        os._exit(0)


def _await_frozen(container: Container) -> None:
    deadline = time.monotonic() + _FREEZING_S
    while not cgroup.is_frozen(container.id) and container.is_running:
        if time.monotonic() > deadline:
            raise FusevolError(
                f"container {container.name} cannot be paused: a process in it waits for a device "
                f"or a volume; try again later, or with --no-pause"
            )
        time.sleep(_POLL_S)
