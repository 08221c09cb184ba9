"""The daemon of one mount: starts the worker, mounts, waits, cleans up."""

import logging
import signal
from collections.abc import AsyncIterator, Callable
from typing import Final

import trio

from fusevol.config import MountConfig
from fusevol.daemon.notify import notify
from fusevol.daemon.served_mount import ServedMount, why_ended

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
        self._mount = ServedMount(config)
        self._ready = ready
        self._stopping = False

    async def run(self) -> int:
        """Serve until the file system is unmounted; return the exit status.

        Raises:
            FusevolError: the mount could not be made. Nothing is left behind.
        """
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            await self._mount.start()
            notify("READY=1")
            self._ready()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals)
                status = await self._mount.ended()
                nursery.cancel_scope.cancel()
        return self._ended(status)

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self._mount.signal(signal.SIGHUP)
            elif self._stopping:
                logger.warning(
                    "asked twice to stop: open files on %s fail now", self._mount.config.mountpoint
                )
                self._mount.signal(signal.SIGKILL)
            else:
                self._stopping = True
                notify("STOPPING=1")
                await self._stop()

    async def _stop(self) -> None:
        """Unmount. If it is busy, take it from the name space and let clients finish."""
        mountpoint = self._mount.config.mountpoint
        if await self._mount.unmount():
            return
        self._mount.detach()
        logger.warning("%s is in use: detached, clients have %g s to finish", mountpoint, _GRACE_S)
        await trio.sleep(_GRACE_S)
        logger.warning("%s is still in use: open files fail from now on", mountpoint)
        self._mount.signal(signal.SIGKILL)

    def _ended(self, status: int) -> int:
        mount = self._mount
        if status == 0:
            mount.close()
            return 0
        reason = why_ended(status)
        if self._stopping:
            reason = f"stopped while in use ({reason})"
        else:
            logger.error("%s: %s; the mount is gone", mount.config.mountpoint, reason)
        mount.detach()
        mount.close()
        mount.record_end(reason)
        return 0 if self._stopping else 1
