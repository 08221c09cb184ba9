"""The keeper: holds what a mount needs to live, and has a worker serve it.

It holds /dev/fuse, the recovery state, and the table of descriptors, which it shares with the
worker; so everything that was open stays open when the worker dies. It touches no file of the
volume. It is started as `python -m fusevol.processes.keeper FD`, FD being its end of a channel to
who wants the mount, and re-executed as `... --resume FD`, FD being the memfd of the recovery
state, when the code is to be changed or the keeper before it has died.

One thread, no trio: it has to be able to fork. Signals: SIGTERM and SIGINT unmount, the second one
at once; SIGHUP reopens the log; SIGUSR1 changes to the code that is installed now.
"""

import contextlib
import errno
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from typing import Final

import msgspec

from fusevol.errors import FusevolError
from fusevol.linux.files import remove_if_empty
from fusevol.linux.mountinfo import mount_at
from fusevol.linux.mounts import make_shared
from fusevol.linux.process import (
    avoid_oom_killer,
    reap_all_but,
    serve_reclaim,
    start_ticks,
    use_all_descriptors,
)
from fusevol.model import RecordLevel
from fusevol.mounts import mounting, registry
from fusevol.mounts.connection import Connection, connection_of
from fusevol.mounts.encoding import decode, encode
from fusevol.processes import forkserver, handover, worker
from fusevol.processes.agent_supervisor import AgentSupervisor
from fusevol.processes.channel import BYTES, Failed, Mounted, Prepared, Ready, Start, pack, unpack
from fusevol.processes.own_descriptors import OwnDescriptors, Pidfd
from fusevol.processes.unmounting import Unmounting
from fusevol.processes.worker_process import WorkerProcess
from fusevol.processes.worker_recovery import WorkerRecovery, why_ended
from fusevol.protocol.init import Flag
from fusevol.record.record import OK
from fusevol.recovery.journal import Journal
from fusevol.recovery.region import (
    ALIVE_FD,
    CONFIG,
    CONNECTION_FD,
    DEVICE,
    FLAGS,
    FUSE_FD,
    INIT,
    LOG_WANTED,
    MOUNT_FLAGS,
    RESTARTS,
    Note,
    Region,
)

_OOM_SCORE: Final = -900
_FAILED_S: Final = 1.0

logger = logging.getLogger(__name__)


class Keeper:
    """Keeps one mount."""

    def __init__(self, start: Start, region: Region) -> None:
        self._config = start.config
        self._region = region
        self._own = OwnDescriptors(region)
        self._pidfd = self._own.keep(os.pidfd_open(os.getpid()))
        self._signals = _signals(self._own)
        self._own.watch(self._signals, self._obey)
        self._watch_owner(start)
        self._worker = WorkerProcess(self._own)
        self._respawn_at: float | None = None
        self._enter_at: float | None = None
        self._unprepared: int | None = None
        """How the last worker ended, if it was not yet seen what it left undone."""
        self._reload = False
        self._message = ""
        self._unmounting = Unmounting(self._config)
        self._recovery = WorkerRecovery(self._config, region, self._own)
        self._agent = AgentSupervisor(
            self._config, region, self._own, self._reopen_log, self._tell_of_agent
        )

    def mount(self, starter: socket.socket) -> None:
        """Mount, and have it served.

        Args:
            starter: the requesting process; if it ends, nothing is mounted.

        Raises:
            FusevolError: it cannot be, and why. Nothing is left behind.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            try:
                self._worker.fork(worker.begin, self._config, self._region, theirs, self._pidfd)
                prepared = unpack(self._receive(ours, starter), Prepared)
                self._make_mount(prepared)
                ours.send(b"+")
                unpack(self._receive(ours, starter), Ready)
                self._enter()
            except BaseException as error:
                self._unmounting.detach()
                self._worker.kill()
                if isinstance(error, OSError):
                    raise FusevolError(f"the mount cannot be kept: {error}") from None
                raise
        self._tune()
        try:
            starter.send(pack(Mounted(self._unmounting.device)))
        except OSError:
            # The process that requested the mount has ended meanwhile.
            signal.raise_signal(signal.SIGTERM)
        self._own.close(starter)

    def _receive(self, ours: socket.socket, starter: socket.socket) -> bytes:
        """Return the worker's next message, as long as it and the starter are there."""
        with selectors.DefaultSelector() as selector:
            # The end of the worker does not end its socket: this process has it open, too.
            for source in (ours, self._worker.pidfd, starter):
                assert source is not None
                selector.register(source, selectors.EVENT_READ)
            ready = [key.fileobj for key, _ in selector.select()]
        if ours in ready:
            return ours.recv(BYTES)
        if starter in ready:
            raise FusevolError("the process that requested the mount has exited")
        return b""

    def _make_mount(self, prepared: Prepared) -> None:
        config, region = self._config, self._region
        fuse_fd = mounting.mount(config, prepared.single_file, prepared.flags)
        region.set_descriptor(FUSE_FD, fuse_fd)
        region.words[MOUNT_FLAGS] = prepared.flags
        region.begin_sinks()
        mount = mount_at(config.mountpoint)
        if mount is None or mount.fstype != registry.FSTYPE:
            raise FusevolError(f"{config.mountpoint} was immediately unmounted by another process")
        self._unmounting.device = region.words[DEVICE] = mount.device
        self._hold_connection()
        region.put_text(INIT, mounting.read_init(fuse_fd))

    def _hold_connection(self) -> None:
        region = self._region
        fd = region.descriptor(CONNECTION_FD)
        if fd >= 0:
            self._unmounting.connection = Connection(fd)
            return
        held = connection_of(region.descriptor(FUSE_FD), self._unmounting.device)
        if held is not None:
            region.set_descriptor(CONNECTION_FD, held.fd)
        self._unmounting.connection = held

    def resume(self) -> None:
        """Go on with what an earlier keeper kept."""
        self._unmounting.device = self._region.words[DEVICE]
        self._hold_connection()
        self._set_readahead()
        try:
            self._recovery.settle()
        except OSError as error:
            # The worker finds that it is unmounted, and says so in the log.
            logger.debug("%s: %s", self._config.mountpoint, error.strerror)
        self._succeed()

    def run(self) -> int:
        """Keep the mount until it is unmounted; return the exit status."""
        while True:
            self._own.wait(self._timeout())
            status = self._worker.reap()
            if status is not None:
                if status == 0 or self._unmounting.forced:
                    return self._ended(status)
                if not self._worker_ended(status):
                    return self._unmounted(status)
            if self._respawn_at is not None and time.monotonic() >= self._respawn_at:
                if self._unprepared is None:
                    self._succeed()
                elif not self._worker_ended(status := self._unprepared):
                    return self._unmounted(status)
            if self._enter_at is not None and time.monotonic() >= self._enter_at:
                self._update_entry()
            self._agent.go_on()
            reap_all_but({self._agent.pid, self._worker.pid})
            self._worker.kill_if_due()
            if self._unmounting.is_due():
                self._end_worker()
                # The worker may wait for its source, and cannot be killed then.
                self._unmounting.abort()
            if self._unmounting.is_overdue():
                return self._ended(-signal.SIGKILL)

    def leave_messages(self) -> None:
        """Have the file of messages removed, if empty, by the last process that could write."""
        path = registry.messages_path(self._config.mountpoint)
        if not self._agent.dismiss(path):
            remove_if_empty(path)

    def _timeout(self) -> float | None:
        wanted = (
            self._respawn_at, self._worker.next_moment(), self._unmounting.next_moment(),
            self._agent.next_moment(), self._enter_at,
        )  # fmt: skip
        moments = [when for when in wanted if when is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _obey(self) -> None:
        for number in self._signals.recv(256):
            if number in (signal.SIGTERM, signal.SIGINT):
                self._unmounting.ask()
            elif number == signal.SIGHUP:
                self._reopen_log()
            elif number == registry.RELOAD:
                self._change_code()

    def _reopen_log(self) -> None:
        self._region.words[LOG_WANTED] += 1
        self._worker.send(signal.SIGHUP)

    def _watch_owner(self, start: Start) -> None:
        """End with the process that the mount is for."""
        if not start.owner:
            return
        try:
            owner = Pidfd(start.owner)
        except ProcessLookupError:
            signal.raise_signal(signal.SIGTERM)
            return
        self._own.watch(owner, lambda: self._owner_ended(owner))
        if start_ticks(start.owner) != start.owner_ticks:
            self._owner_ended(owner)

    def _owner_ended(self, owner: Pidfd) -> None:
        self._own.close(owner)
        signal.raise_signal(signal.SIGTERM)

    def _change_code(self) -> None:
        self._message = handover.why_not(self._region)
        if self._message:
            logger.error("%s: %s", self._config.mountpoint, self._message)
            self._update_entry()
            return
        self._reload = True
        if self._worker.pid:
            self._worker.drain()
        else:
            self._become_new()

    def _become_new(self) -> None:
        self._reload = False
        wanted = registry.take_wanted(self._config.mountpoint)
        if wanted is not None:
            self._region.put_text(CONFIG, wanted)
            self._region.begin_sinks()
        try:
            handover.become_keeper(self._region, "reload")
        except OSError as error:
            logger.error("%s: %s cannot be executed", self._config.mountpoint, error.filename)

    def _worker_ended(self, status: int) -> bool:
        """Prepare for the next worker; return False if there is nothing left to serve."""
        if self._reload:
            self._become_new()
        self._unprepared = None
        try:
            delay = self._recovery.prepare(status)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            # Without, the next one would not get what is unanswered.
            self._unprepared = status
            self._message = f"{why_ended(status)}; cannot start another: {error.strerror}"
            self._respawn_at = time.monotonic() + _FAILED_S
            logger.error("%s: %s", self._config.mountpoint, self._message)
            self._update_entry()
            return True
        if delay:
            self._message = f"{why_ended(status)}; the next one starts in {delay:g} s"
            logger.error("%s: %s", self._config.mountpoint, self._message)
            self._update_entry()
        self._respawn_at = time.monotonic() + delay
        return True

    def _unmounted(self, status: int) -> int:
        """End, as the file system was unmounted while no worker could see it."""
        # Waiting clients got ENOTCONN: it was ended by force.
        was_in_use = Journal(self._region).is_executing()
        reason = f"ended while in use ({why_ended(status)})" if was_in_use else None
        self._unmounting.record(reason, self._region)
        return self._ended(0)

    def _succeed(self) -> None:
        self._respawn_at = None
        leftovers = self._recovery.leftovers
        try:
            self._worker.fork(worker.go_on, self._config, self._region, leftovers, self._pidfd)
        except OSError as error:
            self._respawn_at = time.monotonic() + _FAILED_S
            self._message = (
                f"cannot start a worker ({error.strerror}); retrying every {_FAILED_S:g} s"
            )
            logger.error("%s: %s", self._config.mountpoint, self._message)
        else:
            leftovers.forgotten = []
            self._message = ""
        self._update_entry()

    def _end_worker(self) -> None:
        if self._worker.pid:
            self._worker.send(signal.SIGKILL)
        else:
            self._succeed()

    def _tune(self) -> None:
        config = self._config
        flags = Flag(self._region.words[FLAGS])
        if config.level is RecordLevel.ALL and not flags & Flag.DIRECT_IO_ALLOW_MMAP:
            logger.warning(
                "this kernel does not support shared memory maps at level all (Linux 6.6 does): "
                "programs that need them, such as SQLite in WAL mode, fail with ENODEV; use "
                "--record data"
            )
        self._set_readahead()
        if os.geteuid() == 0:
            # Docker refuses to bind a mount as slave that is not shared.
            make_shared(config.mountpoint)

    def _set_readahead(self) -> None:
        if self._config.level is RecordLevel.DATA:
            mounting.set_readahead(self._unmounting.device, self._region.descriptor(FUSE_FD))

    def _tell_of_agent(self, before: str) -> None:
        """Publish the trouble of the log agent; the log gets its beginning and its end."""
        trouble = self._agent.trouble
        if not (before and trouble):
            result, reason = ("EIO", trouble) if trouble else (OK, "agent at work again")
            self._region.add_note(Note("agent", result, reason))
            self._worker.send(signal.SIGHUP)
        self._update_entry()

    def _update_entry(self) -> None:
        try:
            self._enter()
        except (OSError, FusevolError) as error:
            # The mount keeps working; only its entry is outdated until then.
            self._enter_at = time.monotonic() + _FAILED_S
            logger.error("%s: its entry cannot be written: %s", self._config.mountpoint, error)
        else:
            self._enter_at = None

    def _enter(self) -> None:
        config = self._config
        registry.write(
            registry.MountEntry(
                mountpoint=config.mountpoint,
                source=config.source,
                name=config.name,
                log=config.log,
                level=config.level.value,
                device=self._unmounting.device,
                pid=os.getpid(),
                worker=self._worker.pid,
                restarts=self._region.words[RESTARTS],
                message=self._message,
                agent_trouble=self._agent.trouble,
                device_fd=self._region.descriptor(FUSE_FD),
                state_fd=self._region.fd,
                alive_fd=self._region.descriptor(ALIVE_FD),
                flags=self._region.words[MOUNT_FLAGS],
            )
        )

    def _ended(self, status: int) -> int:
        if status:
            self._unmounting.detach()
        # Not before: without an entry, the mount point counts as free.
        registry.remove(self._config.mountpoint, os.getpid())
        if status:
            reason = f"stopped while in use ({why_ended(status)})"
            self._unmounting.record(reason, self._region)
        return 0


def _signals(own: OwnDescriptors) -> socket.socket:
    """Have signals written to a socket; return the end to read their numbers from."""
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    signal.set_wakeup_fd(own.keep(writing.detach()), warn_on_full_buffer=False)
    for number in handover.SIGNALS:
        signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handover.SIGNALS)
    return reading


def _start(channel_fd: int) -> Keeper | None:
    """Mount what the starter requests; None if it fails, which the starter then knows."""
    starter = socket.socket(fileno=channel_fd)
    start: Start = decode(starter.recv(BYTES), Start)
    region = Region.create()
    region.make_alive_pipe()
    region.put_text(CONFIG, encode(start))
    keeper = Keeper(start, region)
    try:
        keeper.mount(starter)
    except FusevolError as error:
        remove_if_empty(registry.messages_path(start.config.mountpoint))
        with contextlib.suppress(OSError):  # The starter may have ended meanwhile.
            starter.send(pack(Failed.of(error)))
        return None
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
    if arguments[0] == handover.TRY:
        return _try(int(arguments[1]))
    serve_reclaim()
    avoid_oom_killer(_OOM_SCORE)
    use_all_descriptors()
    gc.collect()
    gc.freeze()
    if arguments[0] == forkserver.FORK:
        forkserver.serve(int(arguments[1]), _keep)
        return 0
    if arguments[0] in (handover.RESUME, handover.REVIVE):
        try:
            keeper = _go_on(*map(int, arguments[1:]))
        except FusevolError as error:
            logger.error("cannot continue with a mount: %s", error)
            return 1
        return _keep_until_end(keeper)
    return _keep(int(arguments[0]))


def _go_on(region_fd: int, spare_fuse_fd: int = -1) -> Keeper:
    """Take up a mount from another keeper, or with spare descriptors if all have died."""
    if spare_fuse_fd >= 0:
        handover.revive(Region.attach(region_fd), spare_fuse_fd)
    return _resume(region_fd)


def _try(region_fd: int) -> int:
    """Say by the exit status whether this code understands the state of a mount."""
    try:
        decode(Region.attach(region_fd).text(CONFIG), Start)
    except (FusevolError, msgspec.DecodeError) as error:
        sys.stderr.write(f"{error}\n")
        return handover.NOT_UNDERSTOOD
    return 0


def _keep(channel_fd: int) -> int:
    keeper = _start(channel_fd)
    return 1 if keeper is None else _keep_until_end(keeper)


def _keep_until_end(keeper: Keeper) -> int:
    status = keeper.run()
    keeper.leave_messages()
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
