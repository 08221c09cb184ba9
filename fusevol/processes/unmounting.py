"""How a keeper ends its mount on request."""

import errno
import logging
import os
import time
from typing import Final

from fusevol.errors import FusevolError
from fusevol.linux.mountinfo import mount_at
from fusevol.mounts import mounting, registry
from fusevol.mounts.connection import Connection
from fusevol.options.config import NO_LOG, STDOUT_LOG, MountConfig
from fusevol.record.record import OK, AccessRecord
from fusevol.recording.opening import open_log
from fusevol.recording.orphaned_runs import record_orphaned_runs
from fusevol.recovery.region import Region

logger = logging.getLogger(__name__)

_GRACE_S: Final = 5.0
"""How long clients have to finish after a stop was asked for and the mount is busy."""
_REAP_S: Final = 5.0
"""How long the worker has to end after that."""


class Unmounting:
    """The end of a mount.

    Attributes:
        deadline: when open files fail, on the monotonic clock; None if that is not to be.
        forced: it has come to that.
        device: st_dev of the mount, which distinguishes it from another at the same place.
        connection: of the mount. As long as it is there, `device` is no other's. None where fusectl
            cannot be had.
    """

    def __init__(
        self, config: MountConfig, device: int = 0, connection: Connection | None = None
    ) -> None:
        self.deadline: float | None = None
        self.forced = False
        self._config = config
        self.device = device
        self.connection = connection

    def ask(self) -> None:
        """Unmount. If it is busy, take it from the name space and let clients finish.

        Asked for the second time, it does not wait any longer.
        """
        mountpoint = self._config.mountpoint
        if self.deadline is not None:
            logger.warning("second request to stop: open files on %s fail now", mountpoint)
            self.deadline = time.monotonic()
            return
        self.deadline = time.monotonic() + _GRACE_S
        if not self._unmount(lazily=False):
            self._unmount(lazily=True)
            logger.warning(
                "%s is in use: detached; clients have %g s to finish", mountpoint, _GRACE_S
            )

    def is_due(self) -> bool:
        """Return whether open files have to fail now; from then on it is `forced`."""
        if self.deadline is None or time.monotonic() < self.deadline:
            return False
        if not self.forced:
            logger.warning(
                "%s is still in use: open files fail from now on%s", self._config.mountpoint,
                "" if self.connection else "; pending calls wait until its worker has exited, as "
                "fusectl is not accessible",
            )  # fmt: skip
        self.forced = True
        return True

    def is_overdue(self) -> bool:
        """Return whether to end although a worker has not, which waits for a source that hangs."""
        return self.forced and time.monotonic() >= self._latest()

    def next_moment(self) -> float | None:
        """Return when next to look whether it is due, on the monotonic clock; None for never."""
        return self._latest() if self.forced else self.deadline

    def _latest(self) -> float:
        assert self.deadline is not None
        return self.deadline + _REAP_S

    def abort(self) -> None:
        """Have all calls on the mount fail, if this user may."""
        try:
            if self.connection is not None:
                self.connection.abort()
        except (OSError, FusevolError) as error:
            logger.error("%s cannot be aborted: %s", self._config.mountpoint, error)

    def detach(self) -> None:
        """Detach the mount, even if it is in use."""
        if self.is_mounted():
            self._unmount(lazily=True)

    def is_mounted(self) -> bool:
        """Return whether this very mount is the one at its mount point."""
        mount = mount_at(self._config.mountpoint)
        if mount is None or mount.fstype != registry.FSTYPE or mount.device != self.device:
            return False
        # Asked afterwards: until now the number was not another's.
        return self.connection is None or self.connection.is_there()

    def record(self, reason: str | None, region: Region | None = None) -> None:
        """Write the `unmount` record that a worker could not write any more.

        Args:
            reason: why it failed; None if it was an unmount like any other.
            region: what a worker left, where its descriptors are still open.
        """
        config = self._config
        if config.log in (NO_LOG, STDOUT_LOG):
            return
        try:
            log = open_log(config, None if region is None else region.log_cells())
        except FusevolError as error:
            logger.error("%s", error)
            return
        if region is not None:
            record_orphaned_runs(region, log, config.name)
        result = OK if reason is None else "EIO"
        log.event(AccessRecord(op="unmount", result=result, reason=reason))
        log.close()

    def _unmount(self, lazily: bool) -> bool:
        """Unmount in a process of its own, as the call may wait for the source."""
        pid = os.fork()
        if pid == 0:
            os._exit(self._unmount_here(lazily))
        end = time.monotonic() + _GRACE_S
        while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > end:
                return False
            time.sleep(0.002)
        return os.waitstatus_to_exitcode(done[1]) == 0

    def _unmount_here(self, lazily: bool) -> int:
        if not self.is_mounted():
            return 0
        try:
            mounting.unmount(self._config.mountpoint, lazily=lazily)
        except OSError as error:
            if error.errno != errno.EBUSY:
                logger.error("unmounting %s: %s", self._config.mountpoint, error.strerror)
            return 1
        except FusevolError as error:
            logger.error("%s", error)
            return 1
        return 0
