"""One FUSE mount as `fusevol serve` sees it: making it, watching it, ending it.

Runs in trio. Nothing here waits for the source or for the mount on trio's own thread. The mount
belongs to its keeper, which goes on with it whatever becomes of this process.
"""

import errno
import logging
import math
import os
import signal
import socket
import stat
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from fusevol.errors import FusevolError
from fusevol.linux import mounts
from fusevol.linux.mountinfo import mount_at
from fusevol.linux.process import Process, has_ended
from fusevol.mounts import mounting, registry
from fusevol.mounts.encoding import encode
from fusevol.mounts.liveness import Liveness, answer
from fusevol.options.config import MountConfig
from fusevol.processes import succession
from fusevol.processes.channel import Mounted, Start, pack, receive
from fusevol.processes.fdstore import FdStore
from fusevol.processes.forkserver import ForkServer
from fusevol.processes.unmounting import Unmounting

if TYPE_CHECKING:
    import subprocess

logger = logging.getLogger(__name__)

_REAP_S: Final = 5.0


class ServedMount:
    """A mount that a keeper keeps.

    Attributes:
        config: what is served, and how.
        keeper: process id of the keeper; 0 before it is started.
    """

    def __init__(self, config: MountConfig) -> None:
        self.config = config
        self.keeper = 0
        self._unmounting = Unmounting(config)
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._fdstore: FdStore | None = None
        self._is_reviving = False
        # A thread of its own for calls that a hung worker may hold up: it holds up no other mount.
        self._thread = trio.CapacityLimiter(1)

    @property
    def device(self) -> int:
        """st_dev of the files on the mount; distinguishes it from any other at the same place."""
        return self._unmounting.device

    def entry(self) -> registry.MountEntry | None:
        """Return the keeper's entry of the mount; None if it has no keeper."""
        return registry.get(self.config.mountpoint)

    async def start(self, forks: ForkServer) -> None:
        """Have it mounted and served; return when it answers.

        Args:
            forks: starts its keeper.

        Raises:
            FusevolError: it could not be made. Nothing is left behind, also if cancelled.
        """
        plain, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with trio.socket.from_stdlib_socket(plain) as ours:
            with theirs:
                self._watch(Process.of(await forks.spawn(theirs)))
            try:
                await ours.send(pack(Start(self.config)))
                self._unmounting.device = (await receive(ours, Mounted)).device
            except BaseException:
                ours.close()
                # The keeper cleans up. One whose source hangs ends later, and is reaped then.
                if self._pidfd >= 0:
                    with trio.CancelScope(deadline=trio.current_time() + _REAP_S, shield=True):
                        await trio.lowlevel.wait_readable(self._pidfd)
                self._unwatch()
                raise

    def adopt(self, served: registry.MountEntry) -> bool:
        """Go on with a mount that another daemon made; return whether somebody keeps it."""
        if not served.is_kept:
            return False
        self._unmounting.device = served.device
        self._watch(served.keeper)
        return True

    def revive_stored(self, served: registry.MountEntry) -> bool:
        """Revive a mount whose processes were all killed, with what the service manager kept."""
        self._unmounting.device = served.device
        self._fdstore = FdStore.stored(served.mountpoint, served.device)
        if self._fdstore is None:
            return False
        self._unmounting.connection = self._fdstore.connection
        return self._unmounting.is_mounted() and self._start_revived()

    def _start_revived(self) -> bool:
        assert self._fdstore is not None
        self._process = self._fdstore.revive()
        if self._process is not None:
            self._watch(Process.of(self._process.pid))
        return self._process is not None

    async def _revive(self, status: int) -> bool:
        """Start another keeper; return False if the mount was unmounted or that does not help."""
        while self._fdstore is not None and self._unmounting.is_mounted():
            delay_s = self._fdstore.delay_s(status)
            if delay_s is None:
                return False
            self._is_reviving = True
            for _ in range(math.ceil(delay_s / succession.POLL_S)):
                if not self._unmounting.is_mounted():
                    break
                await trio.sleep(succession.POLL_S)
            self._is_reviving = False
            if self._unmounting.is_mounted() and self._start_revived():
                return True
        return False

    async def ended(self) -> int:
        """Wait until nobody keeps the mount any more; return 0 if it was unmounted, else 1."""
        while True:
            await self._hold_fdstore()
            if self._pidfd >= 0:
                await trio.lowlevel.wait_readable(self._pidfd)
            status = 0
            if self._process is not None and self._process.pid == self.keeper:
                status = self._process.wait()
            keeper = await self._await_heir()
            if keeper:
                logger.warning(
                    "%s: process %d is now its keeper", self.config.mountpoint, keeper.pid
                )
                self._watch(keeper)
                continue
            if registry.get(self.config.mountpoint) is None:
                return 0
            if not await self._revive(status):
                return 1
            logger.error("%s: %s; revived", self.config.mountpoint, succession.KILLED)

    async def _hold_fdstore(self) -> None:
        """Get spare descriptors from the keeper, as soon as it has entered the mount."""
        while (served := registry.get(self.config.mountpoint)) is None or (
            served.pid != self.keeper
        ):
            if self._pidfd < 0 or has_ended(self._pidfd):
                return
            await trio.sleep(succession.POLL_S)
        if self._fdstore is None:
            self._fdstore = FdStore.of(served)
            if self._fdstore is not None:
                self._unmounting.connection = self._fdstore.connection
        else:
            self._fdstore.follow(served)

    async def _await_heir(self) -> Process | None:
        """Return the keeper that succeeds the one that has ended; None if nobody does."""
        mountpoint = self.config.mountpoint
        limit_s = math.inf if self._fdstore is not None else succession.HEIR_S
        with trio.move_on_after(limit_s):
            while not (keeper := succession.keeper_after(mountpoint, self.keeper)):
                if not succession.is_kept(mountpoint, self._fdstore):
                    break
                await trio.sleep(succession.POLL_S)
        return keeper or succession.keeper_after(mountpoint, self.keeper)

    def source_status(self) -> os.stat_result | None:
        """Return the status of the source that is served, None if it cannot be seen; may hang."""
        served = self.entry()
        if served is None or self._fdstore is None:
            return None
        return self._fdstore.source_status(served)

    async def put_back(self, config: MountConfig) -> bool:
        """Mount it at its place again, where use elsewhere has kept it alive.

        Args:
            config: what is wanted there; its flags count, whatever they were before.

        Returns:
            Whether it is served there now. If not, it has to end: it is dead, or another one is
            wanted.
        """
        await self._hold_fdstore()
        if self._fdstore is None or not _is_served_alike(config, self.config):
            return False
        if not await trio.to_thread.run_sync(self._mount_again, config, self._fdstore.device_fd):
            return False
        self.config = msgspec.structs.replace(self.config, flags=config.flags)
        return True

    def _mount_again(self, config: MountConfig, device_fd: int) -> bool:
        place = config.mountpoint
        served = self.entry()
        flags = 0 if served is None else served.flags
        try:
            mounting.mount_again(config, device_fd, stat.S_ISREG(os.lstat(place).st_mode), flags)
        except OSError as error:
            logger.info("cannot mount %s again: %s", place, error.strerror)
            return False
        mount = mount_at(place)
        # What it was mounted with at first holds for all mounts of it.
        is_stuck = mount is not None and not (config.flags | flags) & mounts.MS_RDONLY and (
            "ro" in mount.super_options.split(",")
        )  # fmt: skip
        if is_stuck or answer(place) is Liveness.DEAD:
            self.detach()
            return False
        return True

    def end(self) -> None:
        """Have it end now, even if it is in use anywhere: open files fail."""
        # The second one says that there is no time to finish. One signal sent twice may come once.
        for number in (signal.SIGTERM, signal.SIGINT):
            self.signal(number)

    async def unmount(self) -> bool:
        """Unmount if nothing in this mount namespace uses it; return whether that was so.

        The worker ends when no other namespace has the file system mounted.
        """
        if not self._unmounting.is_mounted():
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
        """Detach the mount, even if it is in use."""
        self._unmounting.detach()

    def is_mounted(self) -> bool:
        """Return whether it is at its place."""
        return self._unmounting.is_mounted()

    def is_kept(self) -> bool:
        """Return whether somebody keeps it."""
        served = registry.get(self.config.mountpoint)
        return self._is_reviving or (served is not None and served.keeper.runs())

    def change(self, config: MountConfig) -> None:
        """Have it served by another configuration; its mount point, flags and log stay."""
        self.config = config
        registry.want(config.mountpoint, encode(Start(config)))
        self.signal(registry.RELOAD)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the keeper, if it runs."""
        try:
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass

    def record_end(self, reason: str) -> None:
        """Write the `unmount` record that nobody else could write any more."""
        self._unmounting.record(reason)

    def close(self) -> None:
        """Forget the keeper, which has ended; remove the entry of the mount."""
        self._unwatch()
        if self._fdstore is not None:
            self._fdstore.close()
        registry.remove(self.config.mountpoint)

    def _watch(self, keeper: Process) -> None:
        self._unwatch()
        self.keeper = keeper.pid
        self._pidfd = keeper.open()

    def _unwatch(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _is_served_alike(one: MountConfig, other: MountConfig) -> bool:
    """Return whether two mounts differ only in what a mount that is served can follow."""
    return (one.source, one.subpath, one.log, one.level) == (
        other.source, other.subpath, other.log, other.level
    )  # fmt: skip
