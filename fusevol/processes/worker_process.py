"""The worker as its keeper sees it: a child that shares its descriptors and may end at any time."""

import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Final, NoReturn

from fusevol.linux.process import fork_sharing_descriptors, has_ended
from fusevol.processes import handover, worker
from fusevol.processes.own_descriptors import OwnDescriptors, Pidfd

_REAP_S: Final = 5.0
_DRAIN_S: Final = 4.0
"""How long a worker may take to make room for another; it takes half of that by itself."""

logger = logging.getLogger(__name__)


class WorkerProcess:
    """The worker of one mount; at first, and between two of them, there is none.

    Attributes:
        pidfd: the process; None if there is none.
    """

    def __init__(self, own: OwnDescriptors) -> None:
        self._own = own
        self._drained_by: float | None = None
        self.pidfd: Pidfd | None = None

    @property
    def pid(self) -> int:
        """Its process id, 0 if there is none."""
        return self.pidfd.pid if self.pidfd is not None else 0

    def fork(self, run: Callable[..., int], *args: object) -> None:
        """Have one run; it begins with `handover.SIGNALS` blocked, lest it loses one.

        Raises:
            OSError: there is no process or descriptor to be had.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, handover.SIGNALS)
        try:
            pid = fork_sharing_descriptors()
            if pid == 0:
                _exit_with(run, *args)
            try:
                self.pidfd = Pidfd(pid)
            except OSError:
                _kill(pid)
                raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, handover.SIGNALS)
        self._own.watch(self.pidfd, lambda: None)

    def reap(self) -> int | None:
        """Return its exit status if it has ended, as `Popen.returncode`; there is none then."""
        ended = self.pidfd
        if ended is None or not has_ended(ended.fileno()):
            return None
        self._own.close(ended)
        _, status = os.waitpid(ended.pid, 0)
        self.pidfd = self._drained_by = None
        return os.waitstatus_to_exitcode(status)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if there is one."""
        if self.pidfd is not None:
            os.kill(self.pidfd.pid, number)

    def kill(self) -> None:
        """End it, if there is one, and wait for that; for one that has not served yet."""
        if self.pidfd is not None:
            _kill(self.pidfd.pid)

    def drain(self) -> None:
        """Have it finish its requests and end; `kill_if_due` ends it if it does not."""
        self.send(worker.DRAIN)
        self._drained_by = time.monotonic() + _DRAIN_S

    def kill_if_due(self) -> None:
        """End it if it was to end and has not."""
        if self._drained_by is not None and time.monotonic() >= self._drained_by:
            # It may have been starting still, and not have seen the signal.
            self._drained_by = None
            self.send(signal.SIGKILL)

    def next_moment(self) -> float | None:
        """Return when `kill_if_due` is due, in seconds of `time.monotonic()`; None for never."""
        return self._drained_by


def _kill(pid: int) -> None:
    """End a worker; one that waits for a hung source ends later."""
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + _REAP_S
    while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < end:
        time.sleep(0.001)


def _exit_with(run: Callable[..., int], *args: object) -> NoReturn:
    status = 1
    try:
        status = run(*args)
    except BaseException:
        logger.exception("the worker failed")
    finally:
        os._exit(status)
