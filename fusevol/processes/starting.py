"""Starting the keeper of a mount, and finding it again when another process has become it."""

import logging
import math
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from fusevol.errors import FusevolError
from fusevol.linux.process import Process, start_ticks
from fusevol.linux.systemd import is_service, notify
from fusevol.mounts import mounting, registry
from fusevol.mounts.encoding import decode
from fusevol.mounts.mount_lock import alone_at
from fusevol.mounts.preflight import check_unserved
from fusevol.mounts.registry import MountEntry
from fusevol.mounts.visibility import hidden_from_host
from fusevol.options.config import NO_LOG, STDOUT_LOG, MountConfig
from fusevol.processes import handover
from fusevol.processes.channel import BYTES, Mounted, Start, pack, unpack
from fusevol.processes.fdstore import FdStore, duplicate
from fusevol.processes.unmounting import Unmounting
from fusevol.recovery.region import CONFIG, Region

logger = logging.getLogger(__name__)

HEIR_S: Final = 10.0
"""How long it may take until a worker has become the keeper."""
POLL_S: Final = 0.02
"""How often to look whether it has."""

_SETTLE_S: Final = 5.0
"""How long a keeper has to end whose mount was unmounted and is not in use."""

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
        [*handover.command(), str(channel.fileno())], pass_fds=(channel.fileno(),),
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
    _await_former(config.log)
    with alone_at(config.mountpoint):
        # Another may have been quicker since the checks.
        check_unserved(config.mountpoint)
        return _start(config, messages, owner)


def _start(config: MountConfig, messages: str | None, owner: int) -> "subprocess.Popen[bytes]":
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
        return put_back(config)
    if (served.source, served.name, served.log, served.level) != (
        config.source, config.name, config.log, config.level.value
    ):  # fmt: skip
        return None
    if not served.keeper.runs():
        return _await_heir(config.mountpoint, served.pid, None)
    return served.keeper


def put_back(config: MountConfig) -> Process | None:
    """Mount again what was unmounted and lives on elsewhere; return its keeper.

    Two servers would number the records of one log.

    Returns:
        None if there is nothing of the kind, or its log is another's, or it has just ended.

    Raises:
        FusevolError: it lives on and has other options.
    """
    served = registry.get(config.mountpoint)
    if served is None or served.log != config.log or registry.is_mounted(served):
        return None
    if not served.keeper.runs():
        return None
    kept = _config_of(served)
    if kept is None:
        return None
    if msgspec.structs.replace(kept, flags=config.flags) != config:
        if _ends_within(served.keeper, _SETTLE_S):
            return None
        raise FusevolError(
            f"{config.mountpoint} was unmounted and is used elsewhere still (its keeper is process "
            f"{served.pid}), with other options; end what uses it, or it: kill {served.pid}"
        )
    device = duplicate(served.keeper, served.device_fd)
    if device < 0:
        return None
    try:
        with alone_at(config.mountpoint):
            if registry.is_mounted(served):
                return None  # Another has just put it back.
            single_file = os.path.isfile(config.mountpoint)
            mounting.mount_again(config, device, single_file, served.flags)
    except OSError:
        return None
    finally:
        os.close(device)
    return served.keeper


def _await_former(log: str) -> None:
    """Wait until a mount that was just unmounted lets go of its log; umount(8) does not."""
    for served in registry.served_elsewhere():
        if served.log == log and log not in (NO_LOG, STDOUT_LOG):
            _ends_within(served.keeper, _SETTLE_S)


def _ends_within(process: Process, seconds: float) -> bool:
    pidfd = process.open()
    if pidfd < 0:
        return True
    try:
        return bool(select.select([pidfd], [], [], seconds)[0])
    finally:
        os.close(pidfd)


def _config_of(served: MountEntry) -> MountConfig | None:
    """Return what a keeper keeps; None if it has ended."""
    state = duplicate(served.keeper, served.state_fd)
    if state < 0:
        return None
    try:
        start: Start = decode(Region.attach(state).text(CONFIG), Start)
    finally:
        os.close(state)
    return start.config


@contextmanager
def _opened(messages: str | None) -> Iterator[int | None]:
    if messages is None:
        yield None
        return
    fd = _new_file(messages)
    try:
        yield fd
    finally:
        os.close(fd)


def _new_file(path: str) -> int:
    """Put a new, empty file at `path`, whatever stood there, and return its descriptor."""
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.rename(temporary, path)
    return fd


def keeper_after(mountpoint: str, ended: int) -> Process | None:
    """Return the keeper of a mount that has succeeded keeper `ended`; None while there is none."""
    served = registry.get(mountpoint)
    if served is None or served.pid == ended or not served.keeper.runs():
        return None
    return served.keeper


def is_kept(mountpoint: str, fdstore: FdStore | None) -> bool:
    """Tell whether anybody lives who keeps a mount or is about to.

    Without spare descriptors the registry tells, which may name an earlier worker.
    """
    served = registry.get(mountpoint)
    if served is None:
        return False
    return served.server.runs() if fdstore is None else fdstore.is_kept()


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
    staying = _Stay(config)

    def pass_on(number: int, _frame: object) -> None:
        if staying.keeper is None:
            raise _StoppedEarly
        staying.pass_on(signal.Signals(number))

    for handled in _PASSED_ON:
        signal.signal(handled, pass_on)
    try:
        staying.begin(check)
    except _StoppedEarly:
        return 0
    notify("READY=1")
    return staying.end()


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
        """The keeper that was told to stop."""
        self._process: subprocess.Popen[bytes] | None = None
        self._fdstore: FdStore | None = None

    def begin(self, check: Callable[[], None]) -> None:
        """Have it mounted, or go on with what is.

        Raises:
            FusevolError: it cannot be mounted.
        """
        config = self._config
        keeper = running(config)
        left = registry.get(config.mountpoint)
        self._fdstore = FdStore.stored(config.mountpoint, left.device if left is not None else 0)
        if keeper is not None:
            self.keeper = keeper
        elif self._fdstore is None or not self._start_revived():
            check()
            process = start(config)
            _check_seen(config, process)
            self._keep(process)

    def pass_on(self, number: signal.Signals) -> None:
        """Have the keeper obey a signal."""
        if number != signal.SIGHUP:
            notify("STOPPING=1")
            self._stop, self._stopped = number, self.keeper
        # One that has ended is not told; who succeeds it is.
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
            keeper = _await_heir(self._config.mountpoint, self._pid, self._fdstore)
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
        """Start a keeper anew; return False if the mount was unmounted or that does not help."""
        while self._fdstore is not None and self._is_left():
            delay_s = self._fdstore.delay_s(status)
            if delay_s is None:
                return False
            if delay_s:
                logger.error("%s: %s; revived in %g s", self._config.mountpoint, KILLED, delay_s)
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


def _await_heir(mountpoint: str, ended: int, fdstore: FdStore | None) -> Process | None:
    """Return the keeper that succeeds keeper `ended`; None if nobody does."""
    limit = math.inf if fdstore is not None else time.monotonic() + HEIR_S
    while not (keeper := keeper_after(mountpoint, ended)) and time.monotonic() < limit:
        if not is_kept(mountpoint, fdstore):
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
