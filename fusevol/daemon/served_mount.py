"""One FUSE mount and the worker that serves it: making it, watching it, ending it.

Runs in trio. Nothing here waits for the source or for the mount on trio's own thread.
"""

import errno
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from typing import Final

import trio

from fusevol.accesslog.record import AccessRecord
from fusevol.accesslog.writer import LogWriter
from fusevol.config import NO_LOG, STDOUT_LOG, MountConfig
from fusevol.daemon import channel, mounting, registry
from fusevol.errors import FusevolError
from fusevol.fuse.init import Flag
from fusevol.linux.mountinfo import mount_at
from fusevol.linux.mounts import make_shared
from fusevol.model import RecordLevel

logger = logging.getLogger(__name__)

_REAP_S: Final = 5.0


class ServedMount:
    """A mount that a worker of ours serves.

    Attributes:
        config: what is served, and how.
        worker: process id of the worker; 0 before it is started.
    """

    def __init__(self, config: MountConfig) -> None:
        self.config = config
        self.worker = 0
        self.device = 0
        """st_dev of the files on the mount; tells it from any other at the same place."""
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        # A thread of its own for calls that a hung worker may hold up: it holds up no other mount.
        self._thread = trio.CapacityLimiter(1)

    async def start(self) -> None:
        """Start the worker and mount; return when the mount answers.

        Raises:
            FusevolError: it could not be made. Nothing is left behind, also if cancelled.
        """
        plain, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with trio.socket.from_stdlib_socket(plain) as ours:
            with theirs:
                self._process = _start_worker(theirs.fileno())
            self.worker = self._process.pid
            self._pidfd = os.pidfd_open(self.worker)
            try:
                await self._mount(ours)
            except BaseException:
                self._process.kill()
                # One that waits for a hung source ends later, and is reaped with its Popen.
                with trio.CancelScope(deadline=trio.current_time() + _REAP_S, shield=True):
                    await trio.lowlevel.wait_readable(self._pidfd)
                self._process.poll()
                self.close()
                raise

    async def _mount(self, ours: trio.socket.SocketType) -> None:
        config = self.config
        await channel.send(ours, config)
        prepared = await channel.receive(ours, channel.Prepared)
        fuse_fd = mounting.mount(config, prepared.single_file)
        try:
            try:
                mount = mount_at(config.mountpoint)
                if mount is None or mount.fstype != registry.FSTYPE:
                    raise FusevolError(
                        f"{config.mountpoint} was unmounted at once by somebody else"
                    )
                self.device = mount.device
                init = mounting.read_init(fuse_fd)
                await channel.send_init(ours, init, fuse_fd)
                serving = await channel.receive(ours, channel.Serving)
            except BaseException:
                self.detach()
                raise
        finally:
            os.close(fuse_fd)
        self._tune(Flag(serving.flags))
        self._enter()

    def _tune(self, flags: Flag) -> None:
        level = self.config.level
        if level is RecordLevel.ALL and not flags & Flag.DIRECT_IO_ALLOW_MMAP:
            logger.warning(
                "this kernel cannot share memory maps at level all (Linux 6.6 can): programs that "
                "need them, such as SQLite in WAL mode, fail with ENODEV; use --record data"
            )
        if level is RecordLevel.DATA:
            mounting.set_readahead(self.device)
        if os.geteuid() == 0:
            # Docker refuses to bind a mount as slave that is not shared.
            make_shared(self.config.mountpoint)

    def _enter(self) -> None:
        config = self.config
        registry.write(
            registry.Served(
                mountpoint=config.mountpoint,
                source=config.source,
                name=config.name,
                log=config.log,
                level=config.level.value,
                device=self.device,
                pid=os.getpid(),
                worker=self.worker,
            )
        )

    def adopt(self, served: registry.Served) -> bool:
        """Take over a mount that another daemon made; return whether its worker still serves it."""
        try:
            pidfd = os.pidfd_open(served.worker)
        except ProcessLookupError:
            return False
        if not registry.is_worker(served.worker) or not registry.is_mounted(served):
            os.close(pidfd)
            return False
        self._pidfd, self.worker, self.device = pidfd, served.worker, served.device
        self._enter()
        return True

    async def ended(self) -> int:
        """Wait until the worker ends; return its exit status, as subprocess gives it.

        The status of an adopted worker is not known: 0 if the mount is gone with it.
        """
        await trio.lowlevel.wait_readable(self._pidfd)
        if self._process is not None:
            return self._process.wait()
        return 1 if self.is_mounted() else 0

    async def unmount(self) -> bool:
        """Unmount if nothing in this mount namespace uses it; return whether that was so.

        The worker ends when no other namespace has the file system mounted.
        """
        if not self.is_mounted():
            return True
        try:
            await trio.to_thread.run_sync(
                mounting.unmount, self.config.mountpoint,
                limiter=self._thread, abandon_on_cancel=True,
            )  # fmt: skip
        except OSError as error:
            if error.errno != errno.EBUSY:
                logger.error("unmounting %s: %s", self.config.mountpoint, error.strerror)
            return False
        except FusevolError as error:
            logger.error("%s", error)
            return False
        return True

    def detach(self) -> None:
        """Take the mount from the name space, whoever uses it."""
        if not self.is_mounted():
            return
        try:
            mounting.unmount(self.config.mountpoint, lazily=True)
        except (OSError, FusevolError) as error:
            logger.error("unmounting %s: %s", self.config.mountpoint, error)

    def is_serving(self) -> bool:
        """Tell whether the worker runs and its mount is there."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0) and self.is_mounted()

    def is_mounted(self) -> bool:
        """Tell whether this very mount is the one at its mount point."""
        mount = mount_at(self.config.mountpoint)
        return mount is not None and mount.fstype == registry.FSTYPE and mount.device == self.device

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the worker, if it runs."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass

    def record_end(self, reason: str) -> None:
        """Write the `unmount` record that a worker could not write any more."""
        config = self.config
        if config.log in (NO_LOG, STDOUT_LOG):
            return
        try:
            log = LogWriter(config.log, config.name, config.on_log_failure)
        except FusevolError as error:
            logger.error("%s", error)
            return
        log.event(AccessRecord(op="unmount", result="EIO", reason=reason))
        log.close()

    def close(self) -> None:
        """Forget the worker, which has ended; remove the entry of the mount."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        registry.remove(self.config.mountpoint)


def why_ended(status: int) -> str:
    """Return in words how a worker ended that failed."""
    if status < 0:
        return f"worker killed by {signal.Signals(-status).name}"
    return f"worker failed with status {status}"


def _start_worker(channel_fd: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-P", "-m", registry.WORKER, str(channel_fd)],
        pass_fds=(channel_fd,), stdin=subprocess.DEVNULL, start_new_session=True, cwd="/",
    )  # fmt: skip
