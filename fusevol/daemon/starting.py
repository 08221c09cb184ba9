"""Starting the keeper of a mount, and finding it again when another process has become it."""

import math
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from fusevol.config import MountConfig
from fusevol.daemon import registry, succession
from fusevol.daemon.background import new_file
from fusevol.daemon.channel import BYTES, Mounted, Start, pack, unpack
from fusevol.daemon.ending import Ending
from fusevol.daemon.notify import notify
from fusevol.daemon.registry import Served
from fusevol.daemon.spare import Spare
from fusevol.errors import FusevolError
from fusevol.linux.process import Process, start_ticks

HEIR_S: Final = 10.0
"""How long it may take until a worker has become the keeper."""
POLL_S: Final = 0.02
"""How often to look whether it has."""

REVIVE_S: Final = 10.0
"""A keeper that is revived and ends within this time cannot be helped."""
KILLED: Final = "keeper and worker were killed"
"""Why a mount is gone that nobody unmounted."""

_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def spawn(channel: socket.socket, messages: int | None = None) -> "subprocess.Popen[bytes]":
    """Start a keeper with its end of a channel.

    Args:
        messages: descriptor of the file that gets what it says; it then has no terminal.
    """
    output = None if messages is None else subprocess.DEVNULL
    return subprocess.Popen(
        [*succession.command(), str(channel.fileno())], pass_fds=(channel.fileno(),),
        stdin=subprocess.DEVNULL, stdout=output, stderr=messages, start_new_session=True, cwd="/",
    )  # fmt: skip


def start(
    config: MountConfig, messages: str | None = None, owner: int = 0
) -> "subprocess.Popen[bytes]":
    """Mount, and return the keeper when the mount answers.

    Args:
        messages: file that gets what the keeper and the workers say; None for stderr.
        owner: process with which the mount ends, 0 for none.

    Raises:
        FusevolError: it could not be mounted, and why. Nothing is left behind.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs, _opened(messages) as file:
            process = spawn(theirs, file)
        ours.send(pack(Start(config, owner, start_ticks(owner) if owner else 0)))
        try:
            unpack(ours.recv(BYTES), Mounted)
        except BaseException:
            ours.close()
            process.terminate()
            process.wait()
            raise
    return process


def running(config: MountConfig) -> Process | None:
    """Return the keeper of this very mount, started earlier by somebody else, if there is one.

    A mount that is served otherwise is another one.
    """
    served = registry.get(config.mountpoint)
    if served is None or not registry.is_mounted(served):
        return None
    if (served.source, served.name, served.log, served.level) != (
        config.source, config.name, config.log, config.level.value
    ):  # fmt: skip
        return None
    if not served.keeper.runs():
        return _await_heir(config.mountpoint, served.pid, None)
    return served.keeper


@contextmanager
def _opened(messages: str | None) -> Iterator[int | None]:
    if messages is None:
        yield None
        return
    fd = new_file(messages)
    try:
        yield fd
    finally:
        os.close(fd)


def keeper_after(mountpoint: str, ended: int) -> Process | None:
    """Return the keeper of a mount that has succeeded keeper `ended`; None while there is none."""
    served = registry.get(mountpoint)
    if served is None or served.pid == ended or not served.keeper.runs():
        return None
    return served.keeper


def is_kept(mountpoint: str, spare: Spare | None) -> bool:
    """Tell whether anybody lives who keeps a mount or is about to.

    Without spare descriptors the registry tells, which may name an earlier worker.
    """
    served = registry.get(mountpoint)
    if served is None:
        return False
    return served.server.runs() if spare is None else spare.is_kept()


class _StoppedEarly(BaseException):
    """A signal said to stop before there was a mount."""


def stay(config: MountConfig, check: Callable[[], None]) -> int:
    """Mount, pass signals on to the keeper, and return the exit status when the mount has ended.

    If the mount is there already, as when the process that had stayed with it was killed, it is
    gone on with; so it is if all of its processes were killed and the service manager has kept what
    it needs.

    Args:
        check: raises if it cannot be mounted.

    Raises:
        FusevolError: it could not be mounted, or its keeper and its worker were killed.
    """
    keepers: list[Process] = []
    stops: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        if not keepers:
            raise _StoppedEarly
        if number != signal.SIGHUP:
            notify("STOPPING=1")
            stops.append(number)
        # One that has ended is not told; who succeeds it is.
        keepers[-1].signal(number)

    for handled in _PASSED_ON:
        signal.signal(handled, pass_on)
    try:
        keeper = running(config)
        spare = Spare.stored(config.mountpoint)
        process = None
        if keeper is None:
            if spare is not None:
                process = spare.revive()
            else:
                check()
                process = start(config)
            keeper = Process.of(process.pid)
        keepers.append(keeper)
    except _StoppedEarly:
        return 0
    notify("READY=1")
    return _Stay(config, keepers, stops, process, spare).end()


class _Stay:
    """Staying with a mount until it ends, and reviving it if all of its processes are killed."""

    def __init__(
        self,
        config: MountConfig,
        keepers: list[Process],
        stops: list[int],
        process: "subprocess.Popen[bytes] | None",
        spare: Spare | None,
    ) -> None:
        self._config = config
        self._keepers = keepers
        self._stops = stops
        self._process = process
        self._spare = spare
        self._revived = -REVIVE_S

    def end(self) -> int:
        """Wait for the end; return the exit status."""
        while True:
            served = self._await_entry()
            if served is not None:
                if self._spare is None:
                    self._spare = Spare.of(served)
                else:
                    self._spare.follow(served)
            status = self._await_end()
            keeper = _await_heir(self._config.mountpoint, self._keepers[-1].pid, self._spare)
            if keeper is not None:
                self._keepers.append(keeper)
            elif not self._revive():
                break
            if self._stops:
                self._keepers[-1].signal(self._stops[-1])
        if self._spare is not None:
            self._spare.close()
        killed = registry.get(self._config.mountpoint)
        if killed is not None:
            _bury(self._config, killed)
        return status

    def _await_entry(self) -> Served | None:
        """Return the entry of the keeper when it has made it; None if it has ended before."""
        while self._is_running():
            served = registry.get(self._config.mountpoint)
            if served is not None and served.pid == self._keepers[-1].pid:
                return served
            time.sleep(POLL_S)
        return None

    def _is_running(self) -> bool:
        process = self._process
        if process is not None and process.pid == self._keepers[-1].pid:
            return process.poll() is None
        return self._keepers[-1].runs()

    def _await_end(self) -> int:
        process = self._process
        if process is not None and process.pid == self._keepers[-1].pid:
            return process.wait()
        return _await_end(self._keepers[-1])

    def _revive(self) -> bool:
        """Start a keeper anew, if the mount was not unmounted and that did not fail just now."""
        killed = registry.get(self._config.mountpoint)
        if self._spare is None or killed is None or not registry.is_mounted(killed):
            return False
        if time.monotonic() - self._revived < REVIVE_S:
            return False
        self._revived = time.monotonic()
        self._process = self._spare.revive()
        self._keepers.append(Process.of(self._process.pid))
        return True


def _bury(config: MountConfig, killed: Served) -> NoReturn:
    """Remove what is left of a mount that nobody keeps, and say so."""
    ending = Ending(config, killed.device)
    ending.detach()
    registry.remove(config.mountpoint)
    ending.record(KILLED)
    raise FusevolError(f"{config.mountpoint}: {KILLED}; the mount is gone")


def _await_heir(mountpoint: str, ended: int, spare: Spare | None) -> Process | None:
    """Return the keeper that succeeds keeper `ended`; None if nobody does."""
    limit = math.inf if spare is not None else time.monotonic() + HEIR_S
    while not (keeper := keeper_after(mountpoint, ended)) and time.monotonic() < limit:
        if not is_kept(mountpoint, spare):
            # It may have entered itself between the two looks, and the mount have ended since.
            return keeper_after(mountpoint, ended)
        time.sleep(POLL_S)
    return keeper


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
