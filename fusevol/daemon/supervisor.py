"""The daemon of one mount: starts the worker, mounts, waits, cleans up."""

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Final

import trio

from fusevol.accesslog.record import AccessRecord
from fusevol.accesslog.writer import STDOUT, LogWriter
from fusevol.config import NO_LOG, MountConfig
from fusevol.daemon import channel, mounting, registry
from fusevol.daemon.notify import notify
from fusevol.errors import FusevolError
from fusevol.fuse.init import Flag
from fusevol.linux.mountinfo import mount_at
from fusevol.model import RecordLevel

logger = logging.getLogger(__name__)

_GRACE_S: Final = 5.0
"""How long clients have to finish after a stop was asked for and the mount is busy."""


class Supervisor:
    """Serves one mount from beginning to end."""

    def __init__(self, config: MountConfig, ready: Callable[[], None]) -> None:
        """Prepare.

        Args:
            ready: called once, when the mount answers.
        """
        self._config = config
        self._ready = ready
        self._device = 0
        self._stopping = False

    async def run(self) -> int:
        """Serve until the file system is unmounted; return the exit status.

        Raises:
            FusevolError: the mount could not be made. Nothing is left behind.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            worker = _start_worker(theirs)
            theirs.close()
            try:
                await self._mount(ours, worker.pid)
            except BaseException:
                ours.close()
                worker.kill()
                worker.wait()
                raise
            notify("READY=1")
            self._ready()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals, worker.pid)
                status = await trio.to_thread.run_sync(worker.wait)
                nursery.cancel_scope.cancel()
        ours.close()
        return self._ended(status)

    async def _mount(self, ours: socket.socket, worker: int) -> None:
        config = self._config
        channel.send(ours, config)
        prepared = await trio.to_thread.run_sync(_expect, ours, channel.Prepared)
        fuse_fd = await trio.to_thread.run_sync(mounting.mount, config, prepared.single_file)
        try:
            mount = mount_at(config.mountpoint)
            if mount is None or mount.fstype != registry.FSTYPE:
                raise FusevolError(f"{config.mountpoint} was unmounted at once by somebody else")
            self._device = mount.device
            try:
                init = mounting.read_init(fuse_fd)
                channel.send_init(ours, init, fuse_fd)
                serving = await trio.to_thread.run_sync(_expect, ours, channel.Serving)
            except BaseException:
                self._detach()
                raise
        finally:
            os.close(fuse_fd)
        self._warn(Flag(serving.flags))
        if config.level is RecordLevel.DATA:
            mounting.set_readahead(self._device)
        registry.write(
            registry.Served(
                mountpoint=config.mountpoint,
                source=config.source,
                name=config.name,
                log=config.log,
                level=config.level.value,
                device=self._device,
                pid=os.getpid(),
                worker=worker,
            )
        )

    def _warn(self, flags: Flag) -> None:
        if self._config.level is RecordLevel.ALL and not flags & Flag.DIRECT_IO_ALLOW_MMAP:
            logger.warning(
                "this kernel cannot share memory maps at level all (Linux 6.6 can): programs that "
                "need them, such as SQLite in WAL mode, fail with ENODEV; use --record data"
            )

    async def _obey(self, signals: AsyncIterator[int], worker: int) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                os.kill(worker, signal.SIGHUP)
            elif self._stopping:
                logger.warning(
                    "asked twice to stop: open files on %s fail now", self._config.mountpoint
                )
                os.kill(worker, signal.SIGKILL)
            else:
                self._stopping = True
                notify("STOPPING=1")
                await self._stop(worker)

    async def _stop(self, worker: int) -> None:
        """Unmount. If it is busy, take it from the name space and let clients finish."""
        mountpoint = self._config.mountpoint
        if not self._is_ours():
            return
        try:
            await trio.to_thread.run_sync(mounting.unmount, mountpoint)
        except OSError as error:
            if error.errno != errno.EBUSY:
                logger.error("unmounting %s failed: %s", mountpoint, error.strerror)
        except FusevolError as error:
            logger.error("%s", error)
        else:
            return
        self._detach()
        logger.warning("%s is in use: detached, clients have %g s to finish", mountpoint, _GRACE_S)
        await trio.sleep(_GRACE_S)
        logger.warning("%s is still in use: open files fail from now on", mountpoint)
        os.kill(worker, signal.SIGKILL)

    def _ended(self, status: int) -> int:
        registry.remove(self._config.mountpoint)
        if status == 0:
            return 0
        reason = (
            f"worker killed by {signal.Signals(-status).name}" if status < 0
            else f"worker failed with status {status}"
        )  # fmt: skip
        if self._stopping:
            reason = f"stopped while in use ({reason})"
        else:
            logger.error("%s: %s; the mount is gone", self._config.mountpoint, reason)
        self._detach()
        self._record_end(reason)
        return 0 if self._stopping else 1

    def _record_end(self, reason: str) -> None:
        """Write the `unmount` record that the worker could not write any more."""
        config = self._config
        if config.log in (NO_LOG, STDOUT):
            return
        try:
            log = LogWriter(config.log, config.name, config.on_log_failure)
        except FusevolError as error:
            logger.error("%s", error)
            return
        log.event(AccessRecord(op="unmount", result="EIO", reason=reason))
        log.close()

    def _detach(self) -> None:
        if self._is_ours():
            try:
                mounting.unmount(self._config.mountpoint, lazily=True)
            except (OSError, FusevolError) as error:
                logger.error("unmounting %s failed: %s", self._config.mountpoint, error)

    def _is_ours(self) -> bool:
        mount = mount_at(self._config.mountpoint)
        return (
            mount is not None and mount.fstype == registry.FSTYPE and mount.device == self._device
        )


def _start_worker(theirs: socket.socket) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "fusevol.daemon.worker", str(theirs.fileno())],
        pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, start_new_session=True, cwd="/",
    )  # fmt: skip


def _expect(ours: socket.socket, kind: "type[channel.M]") -> "channel.M":
    try:
        message = channel.receive(ours, kind)
    except (EOFError, ConnectionError):
        raise FusevolError("the worker ended before it could serve; see its messages") from None
    if isinstance(message, channel.Failed):
        raise message.error()
    return message
