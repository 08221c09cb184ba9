"""The keeper: holds what a mount needs to live, and has a worker serve it.

It holds /dev/fuse, the recovery state, and the table of descriptors, which it shares with the
worker; so everything that was open stays open when the worker dies. It touches no file of the
volume. It is started as `python -m fusevol.daemon.keeper FD`, FD being its end of a channel to who
wants the mount, and executed anew as `... --resume FD`, FD being the memfd of the recovery state,
when the code is to be changed or the keeper before it has died.

One thread, no trio: it has to be able to fork. Signals: SIGTERM and SIGINT unmount, the second one
at once; SIGHUP opens the log anew; SIGUSR1 changes to the code that is installed now.
"""

import errno
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Final, NoReturn

from fusevol.daemon import forkserver, mounting, registry, succession, worker
from fusevol.daemon.agent import LogAgent
from fusevol.daemon.background import remove_if_empty
from fusevol.daemon.channel import (
    BYTES,
    Failed,
    Mounted,
    Prepared,
    Serving,
    Start,
    pack,
    unpack,
)
from fusevol.daemon.encoding import decode, encode
from fusevol.daemon.ending import Ending
from fusevol.daemon.takeover import Takeover, why_ended
from fusevol.errors import FusevolError
from fusevol.fuse.init import Flag
from fusevol.linux.mountinfo import mount_at
from fusevol.linux.mounts import make_shared
from fusevol.linux.process import (
    avoid_oom_killer,
    fork_sharing_descriptors,
    has_ended,
    serve_reclaim,
    start_ticks,
)
from fusevol.model import RecordLevel
from fusevol.recovery.region import (
    ALIVE_FD,
    CONFIG,
    DEVICE,
    FLAGS,
    FUSE_FD,
    INIT,
    LOG_WANTED,
    RESTARTS,
    Region,
)

_OOM_SCORE: Final = -900
_REAP_S: Final = 5.0
_FAILED_S: Final = 1.0
_DRAIN_S: Final = 4.0
"""How long a worker may take to make room for another; it takes half of that by itself."""

logger = logging.getLogger(__name__)


class Keeper:
    """Keeps one mount."""

    def __init__(self, start: Start, region: Region) -> None:
        self._config = start.config
        self._region = region
        self._pidfd = os.pidfd_open(os.getpid())
        self._selector = selectors.DefaultSelector()
        self._signals = _signals()
        self._selector.register(self._signals, selectors.EVENT_READ, self._obey)
        self._watch_owner(start)
        self._worker = 0
        self._worker_fd = -1
        self._respawn_at: float | None = None
        self._reload = False
        self._drained_by: float | None = None
        self._message = ""
        self._ending = Ending(self._config)
        self._takeover = Takeover(self._config, region)
        self._agent = LogAgent(self._config, self._selector, self._reopen_log)

    def mount(self, starter: socket.socket) -> None:
        """Mount, and have it served.

        Args:
            starter: who wants it; if it ends, nothing is mounted.

        Raises:
            FusevolError: it cannot be, and why. Nothing is left behind.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            self._watch(self._fork(worker.begin, self._config, self._region, theirs, self._pidfd))
            try:
                prepared = unpack(self._receive(ours, starter), Prepared)
                self._make_mount(prepared.single_file)
                ours.send(b"+")
                unpack(self._receive(ours, starter), Serving)
            except BaseException:
                self._ending.detach()
                _kill(self._worker)
                raise
        self._tune()
        self._enter()

    def _receive(self, ours: socket.socket, starter: socket.socket) -> bytes:
        """Return the worker's next message, as long as it and the starter are there."""
        with selectors.DefaultSelector() as selector:
            # The end of the worker does not end its socket: this process has it open, too.
            for source in (ours, self._worker_fd, starter):
                selector.register(source, selectors.EVENT_READ)
            ready = [key.fileobj for key, _ in selector.select()]
        if ours in ready:
            return ours.recv(BYTES)
        if starter in ready:
            raise FusevolError("who asked for the mount has ended")
        return b""

    def _make_mount(self, single_file: bool) -> None:
        config, region = self._config, self._region
        fuse_fd = mounting.mount(config, single_file)
        region.set_descriptor(FUSE_FD, fuse_fd)
        mount = mount_at(config.mountpoint)
        if mount is None or mount.fstype != registry.FSTYPE:
            raise FusevolError(f"{config.mountpoint} was unmounted at once by somebody else")
        self._ending.device = region.words[DEVICE] = mount.device
        region.put_text(INIT, mounting.read_init(fuse_fd))

    def resume(self) -> None:
        """Go on with what an earlier keeper kept."""
        self._ending.device = self._region.words[DEVICE]
        if self._config.level is RecordLevel.DATA:
            mounting.set_readahead(self._ending.device)
        try:
            self._takeover.settle()
        except OSError as error:
            # The worker finds that it is unmounted, and says so in the log.
            logger.debug("%s: %s", self._config.mountpoint, error.strerror)
        self._succeed()

    def run(self) -> int:
        """Keep the mount until it is unmounted; return the exit status."""
        while True:
            for key, _ in self._selector.select(self._timeout()):
                key.data()
            if self._worker_fd >= 0 and has_ended(self._worker_fd):
                status = self._reap()
                if status == 0 or self._ending.forced:
                    return self._ended(status)
                if not self._worker_ended(status):
                    return self._unmounted()
            if self._respawn_at is not None and time.monotonic() >= self._respawn_at:
                self._succeed()
            if self._agent.is_due():
                self._agent.start()
            if self._drained_by is not None and time.monotonic() >= self._drained_by:
                # It may have been starting still, and not have seen the signal.
                self._drained_by = None
                self._signal_worker(signal.SIGKILL)
            if self._ending.is_due():
                self._end_worker()
                # The worker may wait for its source, and cannot be killed then.
                self._ending.abort()
            if self._ending.is_overdue():
                return self._ended(-signal.SIGKILL)

    @property
    def device(self) -> int:
        """st_dev of the files on the mount."""
        return self._ending.device

    @property
    def mountpoint(self) -> str:
        """Where it is mounted."""
        return self._config.mountpoint

    def _timeout(self) -> float | None:
        wanted = (
            self._respawn_at, self._drained_by, self._ending.next_moment(), self._agent.start_at,
        )  # fmt: skip
        moments = [when for when in wanted if when is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _obey(self) -> None:
        for number in self._signals.recv(256):
            if number in (signal.SIGTERM, signal.SIGINT):
                self._ending.ask()
            elif number == signal.SIGHUP:
                self._reopen_log()
            elif number == registry.RELOAD:
                self._change_code()

    def _reopen_log(self) -> None:
        self._region.words[LOG_WANTED] += 1
        self._signal_worker(signal.SIGHUP)

    def _watch_owner(self, start: Start) -> None:
        """End with the process that the mount is for."""
        if not start.owner:
            return
        try:
            fd = os.pidfd_open(start.owner)
        except ProcessLookupError:
            self._owner_ended(-1)
            return
        if start_ticks(start.owner) != start.owner_ticks:
            self._owner_ended(fd)
            return
        self._selector.register(fd, selectors.EVENT_READ, lambda: self._owner_ended(fd))

    def _owner_ended(self, fd: int) -> None:
        if fd >= 0 and fd in self._selector.get_map():
            self._selector.unregister(fd)
        signal.raise_signal(signal.SIGTERM)

    def _change_code(self) -> None:
        self._message = succession.why_not()
        if self._message:
            logger.error("%s: %s", self._config.mountpoint, self._message)
            self._enter()
            return
        self._reload = True
        if self._worker:
            self._signal_worker(worker.DRAIN)
            self._drained_by = time.monotonic() + _DRAIN_S
        else:
            self._become_new()

    def _become_new(self) -> None:
        self._reload = False
        wanted = registry.take_wanted(self._config.mountpoint)
        if wanted is not None:
            self._region.put_text(CONFIG, wanted)
        try:
            succession.become_keeper(self._region, "reload")
        except OSError as error:
            logger.error("%s: %s cannot be executed", self._config.mountpoint, error.filename)

    def _worker_ended(self, status: int) -> bool:
        """Prepare for the next worker; return False if there is nothing left to serve."""
        if self._reload:
            self._become_new()
        try:
            delay = self._takeover.prepare(status)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            logger.error("%s: /dev/fuse fails: %s", self._config.mountpoint, error.strerror)
            delay = _FAILED_S
        if delay:
            self._message = f"{why_ended(status)}; the next one starts in {delay:g} s"
            logger.error("%s: %s", self._config.mountpoint, self._message)
            self._enter()
        self._respawn_at = time.monotonic() + delay
        return True

    def _unmounted(self) -> int:
        """End, as the file system was unmounted while no worker could see it."""
        self._ending.record(None, self._region)
        return self._ended(0)

    def _succeed(self) -> None:
        self._respawn_at = None
        leftovers = self._takeover.leftovers
        pid = self._fork(worker.go_on, self._config, self._region, leftovers, self._pidfd)
        leftovers.forgotten = []
        self._watch(pid)
        self._message = ""
        self._enter()

    def _fork(self, run: Callable[..., int], *args: object) -> int:
        pid = fork_sharing_descriptors()
        if pid == 0:
            _exit_with(run, *args)
        return pid

    def _watch(self, pid: int) -> None:
        self._worker = pid
        self._worker_fd = os.pidfd_open(pid)
        self._selector.register(self._worker_fd, selectors.EVENT_READ, lambda: None)

    def _reap(self) -> int:
        self._selector.unregister(self._worker_fd)
        os.close(self._worker_fd)
        _, status = os.waitpid(self._worker, 0)
        self._worker, self._worker_fd, self._drained_by = 0, -1, None
        return os.waitstatus_to_exitcode(status)

    def _signal_worker(self, number: signal.Signals) -> None:
        if self._worker:
            os.kill(self._worker, number)

    def _end_worker(self) -> None:
        if self._worker:
            self._signal_worker(signal.SIGKILL)
        else:
            self._succeed()

    def _tune(self) -> None:
        config = self._config
        flags = Flag(self._region.words[FLAGS])
        if config.level is RecordLevel.ALL and not flags & Flag.DIRECT_IO_ALLOW_MMAP:
            logger.warning(
                "this kernel cannot share memory maps at level all (Linux 6.6 can): programs that "
                "need them, such as SQLite in WAL mode, fail with ENODEV; use --record data"
            )
        if config.level is RecordLevel.DATA:
            mounting.set_readahead(self._ending.device)
        if os.geteuid() == 0:
            # Docker refuses to bind a mount as slave that is not shared.
            make_shared(config.mountpoint)

    def _enter(self) -> None:
        config = self._config
        registry.write(
            registry.Served(
                mountpoint=config.mountpoint,
                source=config.source,
                name=config.name,
                log=config.log,
                level=config.level.value,
                device=self._ending.device,
                pid=os.getpid(),
                worker=self._worker,
                restarts=self._region.words[RESTARTS],
                message=self._message,
                device_fd=self._region.descriptor(FUSE_FD),
                state_fd=self._region.fd,
                alive_fd=self._region.descriptor(ALIVE_FD),
            )
        )

    def _ended(self, status: int) -> int:
        registry.remove(self._config.mountpoint, os.getpid())
        if status:
            self._ending.detach()
            reason = f"stopped while in use ({why_ended(status)})"
            self._ending.record(reason, self._region)
        return 0


def _signals() -> socket.socket:
    """Have signals written to a socket; return the end to read their numbers from."""
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)
    for number in succession.SIGNALS:
        signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, succession.SIGNALS)
    return reading


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


def _start(channel_fd: int) -> Keeper | None:
    """Mount what the starter asks for; None if it cannot be, which the starter was told."""
    starter = socket.socket(fileno=channel_fd)
    with starter:
        start: Start = decode(starter.recv(BYTES), Start)
        region = Region.create()
        region.make_alive_pipe()
        region.put_text(CONFIG, encode(start))
        keeper = Keeper(start, region)
        try:
            keeper.mount(starter)
        except FusevolError as error:
            starter.send(pack(Failed.of(error)))
            return None
        try:
            starter.send(pack(Mounted(keeper.device)))
        except OSError:
            # Who asked for the mount has ended meanwhile.
            signal.raise_signal(signal.SIGTERM)
    return keeper


def _resume(region_fd: int) -> Keeper:
    region = Region.attach(region_fd)
    start: Start = decode(region.text(CONFIG), Start)
    keeper = Keeper(start, region)
    keeper.resume()
    return keeper


def main(arguments: list[str]) -> int:
    """Start or resume, as the arguments say, and keep the mount until its end."""
    logging.basicConfig(format="fusevol: %(levelname)s: %(message)s", stream=sys.stderr)
    serve_reclaim()
    avoid_oom_killer(_OOM_SCORE)
    gc.collect()
    gc.freeze()
    if arguments[0] == forkserver.FORK:
        forkserver.serve(int(arguments[1]), _keep)
        return 0
    if arguments[0] == succession.RESUME:
        return _keep_until_end(_resume(int(arguments[1])))
    if arguments[0] == succession.REVIVE:
        region_fd, fuse_fd = map(int, arguments[1:])
        succession.revive(Region.attach(region_fd), fuse_fd)
        return _keep_until_end(_resume(region_fd))
    return _keep(int(arguments[0]))


def _keep(channel_fd: int) -> int:
    keeper = _start(channel_fd)
    return 1 if keeper is None else _keep_until_end(keeper)


def _keep_until_end(keeper: Keeper) -> int:
    status = keeper.run()
    remove_if_empty(registry.messages_path(keeper.mountpoint))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
