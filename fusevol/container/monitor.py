"""Running a container from its making to its end.

    fusevol run   the process that was called; forwards signals, returns the command's status
      monitor     has the volumes served, waits for the command, cleans up
        init      becomes the command, the first process of the container

Whichever is killed, the container ends and leaves nothing mounted: the monitor notices the end of
the caller, the kernel kills `init` when the monitor ends, and all mounts of the container are in
its own mount namespace.
"""

import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Final, Never

import msgspec

from fusevol import errors
from fusevol.container import cgroup
from fusevol.container.init import Plan, run
from fusevol.container.root import Bind
from fusevol.container.state import Container, Process
from fusevol.errors import FusevolError
from fusevol.linux.namespaces import CLONE_NEWPID, unshare
from fusevol.linux.process import start_ticks

_FORWARDED: Final = (
    signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT,
)  # fmt: skip

Obtain = Callable[[], list[Bind]]
"""Has the volumes served and returns copies of their mounts."""
Release = Callable[[], None]
"""Gives the volumes back, when the container has ended."""


class MonitorKilledError(FusevolError):
    """The monitor did not live to tell how the container ended."""


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
    monitor = os.fork()
    if monitor == 0:
        os.close(receiving)
        os.close(lifeline)
        _monitor(container, plan, obtain, release, sending, watched)
    os.close(sending)
    os.close(watched)
    for number in _FORWARDED:
        signal.signal(number, lambda number, _frame: _forward(container, number))
    with os.fdopen(receiving, "rb") as pipe:
        said = pipe.read()
    os.waitpid(monitor, 0)
    os.close(lifeline)
    if not said:
        raise MonitorKilledError(
            f"the monitor of container {container.name} was killed, and the container with "
            f"it; what it changed is kept until `fusevol rm {container.name}`"
        )
    report = msgspec.json.decode(said, type=_Report)
    if report.kind:
        kind: type[FusevolError] = getattr(errors, report.kind)
        raise kind(report.message)
    return report.status


def _forward(container: Container, number: int) -> None:
    try:
        current = Container.load(container.id)
    except FileNotFoundError:
        return
    if current.init is not None and current.is_running:
        os.kill(current.init.pid, number)


def _monitor(
    container: Container, plan: Plan, obtain: Obtain, release: Release, sending: int, watched: int
) -> Never:
    for number in _FORWARDED:
        signal.signal(number, signal.SIG_IGN)
    report = _Report()
    try:
        container.monitor = _this_process()
        container.save()
        try:
            report.status = _run(container, plan, obtain(), watched)
        finally:
            release()
            cgroup.remove(container.id)
        container.status = report.status
        container.save()
    except FusevolError as error:
        report = _Report(1, type(error).__name__, str(error))
    except BaseException as error:
        report = _Report(1, "FusevolError", f"running the container failed: {error!r}")
    os.write(sending, msgspec.json.encode(report))
    os._exit(0)


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
    container.init = Process(pid, start_ticks(pid))
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


def _this_process() -> Process:
    return Process(os.getpid(), start_ticks(os.getpid()))
