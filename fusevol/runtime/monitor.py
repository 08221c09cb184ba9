"""Running a container from its making to its end.

    fusevol run   the process that was called; forwards signals, shows the terminal, returns the
                  command's status
      monitor     has the volumes served, calls the runtime, waits for the command, cleans up
        command   the first process of the container, which the runtime left behind

Whichever is killed, the container ends and leaves nothing mounted: the monitor notices the end of
the caller, the caller that of the monitor; all mounts of the container are in namespaces of the
runtime and its own. If both are killed, the next command of fusevol ends what they left.
"""

import os
import signal
import sys
from typing import Final, Never

import msgspec

from fusevol import errors
from fusevol.containers import cgroup
from fusevol.containers.state import Container
from fusevol.errors import FusevolError
from fusevol.linux.process import Process
from fusevol.runtime.bundle import Plan
from fusevol.runtime.making import run
from fusevol.runtime.oci import RuntimeFailedError
from fusevol.runtime.terminal import Terminal
from fusevol.runtime.volumes import ServedVolumes

_FORWARDED: Final = (
    signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT,
)  # fmt: skip

_ENOUGH: Final = 3
"""So many SIGINT and SIGTERM end a command that does not obey, as with Docker."""


class MonitorKilledError(Exception):
    """The monitor ended before it could report the end of the container.

    Attributes:
        signal: the signal for whose sake it was killed; 0 if somebody else did it.
    """

    def __init__(self, message: str, signal: int = 0) -> None:
        super().__init__(message)
        self.signal = signal


class _Report(msgspec.Struct):
    """The monitor's report to its caller: the command's status, or why there is none."""

    status: int = 1
    kind: str = ""
    message: str = ""


def run_container(
    container: Container, plan: Plan, served: ServedVolumes, terminal: Terminal | None
) -> int:
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
        console = None if terminal is None else terminal.path
        _monitor(container, plan, served, console, sending, watched)
    os.close(sending)
    os.close(watched)
    forwarder.watch(monitor)
    if terminal is not None:
        terminal.show_until(receiving)
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
            # It may wait for a volume, and there is no command yet to signal.
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
    container: Container, plan: Plan, served: ServedVolumes, console: str | None, sending: int,
    watched: int,
) -> Never:  # fmt: skip
    for number in _FORWARDED:
        signal.signal(number, signal.SIG_IGN)
    # What is sent to all processes of a session, SIGKILL too, should leave one that cleans up.
    os.setsid()
    try:
        report = _Report(_run_and_clean_up(container, plan, served, console, watched))
    except RuntimeFailedError as error:
        report = _Report(error.status)
    except FusevolError as error:
        report = _Report(1, type(error).__name__, str(error))
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        report = _Report(1, "FusevolError", f"cannot run the container: {where}{error.strerror}")
    except BaseException as error:
        report = _Report(1, "FusevolError", f"cannot run the container: {error!r}")
    os.write(sending, msgspec.json.encode(report))
    os._exit(0)


def _run_and_clean_up(
    container: Container, plan: Plan, served: ServedVolumes, console: str | None, watched: int
) -> int:
    """Run the container; keep it when it has ended if that was asked for and it ever began."""
    keep = False
    try:
        container.monitor = Process.current()
        container.save()
        try:
            container.status = run(container, plan, served, console, watched)
        finally:
            served.release()
            cgroup.remove(container.id)
        container.save()
        keep = not container.remove_at_end
    finally:
        if not keep:
            container.remove()
    return container.status
