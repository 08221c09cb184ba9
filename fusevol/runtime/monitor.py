"""Running a container from its making to its end.

    fusevol run   the process that was called; forwards signals, returns the command's status
      monitor     has the volumes served, waits for the command, cleans up
        init      becomes the command, the first process of the container

Whichever is killed, the container ends and leaves nothing mounted: the monitor notices the end of
the caller; the kernel kills `init` when the monitor ends, and so does the caller, as the kernel
forgets to when the command changes its user; all mounts of the container are in its own mount
namespace.
"""

import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Final, Never

import msgspec

from fusevol import errors
from fusevol.containers import cgroup
from fusevol.containers.state import Container
from fusevol.errors import FusevolError
from fusevol.linux.namespaces import CLONE_NEWPID, unshare
from fusevol.linux.process import Process
from fusevol.runtime.init import Plan, run
from fusevol.runtime.root import Bind

_FORWARDED: Final = (
    signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT,
)  # fmt: skip

_ENOUGH: Final = 3
"""So many SIGINT and SIGTERM end a command that does not obey, as with Docker."""

Obtain = Callable[[], list[Bind]]
"""Has the volumes served and returns copies of their mounts."""
Release = Callable[[], None]
"""Gives the volumes back, when the container has ended."""


class MonitorKilledError(Exception):
    """The monitor did not live to tell how the container ended.

    Attributes:
        signal: the signal for whose sake it was killed; 0 if somebody else did it.
    """

    def __init__(self, message: str, signal: int = 0) -> None:
        super().__init__(message)
        self.signal = signal


class _Report(msgspec.Struct):
    """What the monitor tells its caller: the command's status, or why there is none."""

    status: int = 1
    kind: str = ""
    message: str = ""


def run_container(container: Container, plan: Plan, obtain: Obtain, release: Release) -> int:
    """Run a container to its end; return its command's exit status, 128 + N after signal N.

    Raises:
        MonitorKilledError: its end is not known.
        FusevolError: it could not be made.
    """
    receiving, sending = os.pipe2(os.O_CLOEXEC)
    watched, lifeline = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    forwarder = _Forwarder(container)
    for number in _FORWARDED:
        signal.signal(number, forwarder.forward)
    monitor = os.fork()
    if monitor == 0:
        os.close(receiving)
        os.close(lifeline)
        _monitor(container, plan, obtain, release, sending, watched)
    os.close(sending)
    os.close(watched)
    forwarder.watch(monitor)
    with os.fdopen(receiving, "rb") as pipe:
        said = pipe.read()
    forwarder.watch(0)
    os.waitpid(monitor, 0)
    os.close(lifeline)
    if not said:
        raise MonitorKilledError(
            f"the monitor of container {container.name} was killed, and the container with it",
            forwarder.aborted_by,
        )
    report = msgspec.json.decode(said, type=_Report)
    if report.kind:
        kind: type[FusevolError] = getattr(errors, report.kind)
        raise kind(report.message)
    return report.status


class _Forwarder:
    """Passes signals on to the command, and ends what cannot be ended otherwise.

    Attributes:
        aborted_by: signal that came before the command began; 0 if none did.
    """

    def __init__(self, container: Container) -> None:
        self.aborted_by = 0
        self._container = container
        self._monitor = 0
        self._asked_to_end = 0

    def watch(self, monitor: int) -> None:
        """Know the process id of the monitor from now on; 0 when it ends."""
        self._monitor = monitor
        if monitor and self.aborted_by:
            os.kill(monitor, signal.SIGKILL)

    def forward(self, number: int, _frame: object) -> None:
        """Handle a signal."""
        init = self._init()
        if init is None:
            # It may wait for a volume, and there is no command yet that could be told.
            self.aborted_by = number
            self.watch(self._monitor)
            return
        if number in (signal.SIGINT, signal.SIGTERM):
            self._asked_to_end += 1
        if self._asked_to_end >= _ENOUGH:
            # The first process of a container gets only the signals that it handles.
            number = signal.SIGKILL
        init.signal(number)

    def _init(self) -> Process | None:
        try:
            return Container.load(self._container.id).init
        except FileNotFoundError:
            return None


def _monitor(
    container: Container, plan: Plan, obtain: Obtain, release: Release, sending: int, watched: int
) -> Never:
    for number in _FORWARDED:
        signal.signal(number, signal.SIG_IGN)
    try:
        report = _Report(_run_and_clean_up(container, plan, obtain, release, watched))
    except FusevolError as error:
        report = _Report(1, type(error).__name__, str(error))
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        report = _Report(
            1, "FusevolError", f"running the container failed: {where}{error.strerror}"
        )
    except BaseException as error:
        report = _Report(1, "FusevolError", f"running the container failed: {error!r}")
    os.write(sending, msgspec.json.encode(report))
    os._exit(0)


def _run_and_clean_up(
    container: Container, plan: Plan, obtain: Obtain, release: Release, watched: int
) -> int:
    """Run the container; keep it when it has ended if that was asked for and it ever began."""
    keep = False
    try:
        container.monitor = Process.current()
        container.save()
        try:
            container.status = _run(container, plan, obtain(), watched)
        finally:
            release()
            cgroup.remove(container.id)
        container.save()
        keep = not container.remove_at_end
    finally:
        if not keep:
            container.remove()
    return container.status


def _run(container: Container, plan: Plan, binds: list[Bind], watched: int) -> int:
    """Start the command, wait for it, and return its status."""
    waiting, go = os.pipe2(os.O_CLOEXEC)
    failures, failing = os.pipe2(os.O_CLOEXEC)
    try:
        unshare(CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            os.close(go)
            os.close(failures)
            run(plan, binds, waiting, failing)
    finally:
        # Not left to the end of this process, which waits for that of the servers.
        for bind in binds:
            os.close(bind.tree_fd)
    os.close(waiting)
    os.close(failing)
    pidfd = os.pidfd_open(pid)
    container.init = Process.of(pid)
    container.save()
    try:
        cgroup.create(container.id, pid)
        os.write(go, b"+")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(go)
    _await(pidfd, watched, pid)
    _, status = os.waitpid(pid, 0)
    os.close(pidfd)
    with os.fdopen(failures, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    if said:
        raise FusevolError(said)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _await(pidfd: int, watched: int, pid: int) -> None:
    """Wait for the end of `pid`; end it if the caller ends before."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(watched, 0)
    for fd, _event in poll.poll():
        if fd == watched:
            os.kill(pid, signal.SIGKILL)
