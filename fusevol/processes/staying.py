"""Staying with a mount in the foreground until it ends: `fusevol mount -f`."""

import logging
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Final

from fusevol.errors import FusevolError
from fusevol.linux.process import Process
from fusevol.linux.systemd import is_service, notify
from fusevol.mounts import registry
from fusevol.mounts.registry import MountEntry
from fusevol.mounts.visibility import hidden_from_host
from fusevol.options.config import MountConfig
from fusevol.processes import former
from fusevol.processes.fdstore import FdStore
from fusevol.processes.starting import start
from fusevol.processes.succession import KILLED, POLL_S, await_heir
from fusevol.processes.unmounting import Unmounting

if TYPE_CHECKING:
    import subprocess

logger = logging.getLogger(__name__)

_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def stay(config: MountConfig) -> int:
    """Mount, pass signals on to the keeper, and return the exit status when the mount has ended.

    If the mount is there already, as when the process that had stayed with it was killed, it is
    gone on with; so it is if all of its processes were killed and the service manager has kept what
    it needs.

    Raises:
        FusevolError: it could not be mounted, or its keeper and its worker were killed.
    """
    staying = _Stay(config)

    def pass_on(number: int, _frame: object) -> None:
        if staying.keeper is None:
            raise _StoppedEarly
        staying.pass_on(signal.Signals(number))

    for handled in _PASSED_ON:
        signal.signal(handled, pass_on)
    try:
        staying.begin()
    except _StoppedEarly:
        return 0
    notify("READY=1")
    return staying.end()


class _StoppedEarly(BaseException):
    """A signal said to stop before there was a mount."""


def _check_seen(config: MountConfig, process: "subprocess.Popen[bytes]") -> None:
    """Refuse to be a service whose mount the host does not see; else only say it."""
    hidden = hidden_from_host(config.mountpoint)
    if hidden and is_service():
        process.terminate()
        process.wait()
        raise FusevolError(hidden)
    if hidden:
        logger.warning("%s", hidden)


class _Stay:
    """Staying with a mount until it ends, and reviving it if all of its processes are killed.

    Attributes:
        keeper: the keeper; None before there is one.
    """

    def __init__(self, config: MountConfig) -> None:
        self.keeper: Process | None = None
        self._config = config
        self._stop: signal.Signals | None = None
        self._stopped: Process | None = None
        """The keeper that was signalled to stop."""
        self._process: subprocess.Popen[bytes] | None = None
        self._fdstore: FdStore | None = None

    def begin(self) -> None:
        """Have it mounted, or go on with what is.

        Raises:
            FusevolError: it cannot be mounted.
        """
        config = self._config
        keeper = former.running(config)
        left = registry.get(config.mountpoint)
        self._fdstore = FdStore.stored(config.mountpoint, left.device if left is not None else 0)
        if keeper is not None:
            self.keeper = keeper
        elif self._fdstore is None or not self._start_revived():
            process = start(config)
            _check_seen(config, process)
            self._keep(process)

    def pass_on(self, number: signal.Signals) -> None:
        """Have the keeper obey a signal."""
        if number != signal.SIGHUP:
            notify("STOPPING=1")
            self._stop, self._stopped = number, self.keeper
        # One that has ended gets no signal; its successor does.
        if self.keeper is not None:
            self.keeper.signal(number)

    def end(self) -> int:
        """Wait for the end; return the exit status."""
        while True:
            served = self._await_entry()
            if served is not None:
                if self._fdstore is None:
                    self._fdstore = FdStore.of(served)
                else:
                    self._fdstore.follow(served)
                if self._stop is not None and self._stopped != self.keeper:
                    self.pass_on(self._stop)
            status = self._await_end()
            keeper = await_heir(self._config.mountpoint, self._pid, self._fdstore)
            if keeper is not None:
                self.keeper = keeper
            elif not self._revive(status):
                break
        killed = registry.get(self._config.mountpoint)
        if killed is not None:
            self._bury(killed)
        if self._fdstore is not None:
            self._fdstore.close()
        if killed is not None:
            raise FusevolError(f"{self._config.mountpoint}: {KILLED}; the mount is gone")
        return status

    @property
    def _pid(self) -> int:
        return self.keeper.pid if self.keeper is not None else 0

    def _await_entry(self) -> MountEntry | None:
        """Return the entry of the keeper when it has made it; None if it has ended before."""
        while self._is_running():
            served = registry.get(self._config.mountpoint)
            if served is not None and served.pid == self._pid:
                return served
            time.sleep(POLL_S)
        return None

    def _is_running(self) -> bool:
        process = self._process
        if process is not None and process.pid == self._pid:
            return process.poll() is None
        return self.keeper is not None and self.keeper.runs()

    def _await_end(self) -> int:
        process = self._process
        if process is not None and process.pid == self._pid:
            return process.wait()
        return _await_end(self.keeper) if self.keeper is not None else 0

    def _revive(self, status: int) -> bool:
        """Start another keeper; return False if the mount was unmounted or that does not help."""
        while self._fdstore is not None and self._is_left():
            delay_s = self._fdstore.delay_s(status)
            if delay_s is None:
                return False
            if delay_s:
                logger.error(
                    "%s: %s; reviving it in %g s", self._config.mountpoint, KILLED, delay_s
                )
            end = time.monotonic() + delay_s
            while time.monotonic() < end and self._stop is None and self._is_left():
                time.sleep(POLL_S)
            if self._is_left() and self._start_revived():
                return True
        return False

    def _is_left(self) -> bool:
        killed = registry.get(self._config.mountpoint)
        return killed is not None and self._unmounting(killed).is_mounted()

    def _unmounting(self, killed: MountEntry) -> Unmounting:
        connection = self._fdstore.connection if self._fdstore is not None else None
        return Unmounting(self._config, killed.device, connection)

    def _start_revived(self) -> bool:
        assert self._fdstore is not None
        process = self._fdstore.revive()
        if process is not None:
            self._keep(process)
        return process is not None

    def _keep(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self.keeper = Process.of(process.pid)

    def _bury(self, killed: MountEntry) -> None:
        """Remove what is left of a mount that nobody keeps."""
        unmounting = self._unmounting(killed)
        unmounting.detach()
        registry.remove(self._config.mountpoint)
        unmounting.record(KILLED)


def _await_end(keeper: Process) -> int:
    """Wait for the end of a keeper that is not a child of ours."""
    pidfd = keeper.open()
    if pidfd < 0:
        return 0
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll()
    finally:
        os.close(pidfd)
    return 0
