"""One volume of `fusevol serve`, and the worker that serves it when somebody needs it.

Belongs to trio's thread. What may wait for a source or a mount waits elsewhere, under the lock of
this one volume.
"""

import logging
import os
import signal
import time
from typing import Final

import msgspec
import trio

from fusevol.errors import FusevolError
from fusevol.linux import mounts
from fusevol.linux.mountinfo import mount_at
from fusevol.linux.process import start_ticks
from fusevol.model import RecordLevel
from fusevol.mounts import mounting, registry
from fusevol.mounts.preflight import check_source
from fusevol.options.config import DEFAULT_FLAGS, MountConfig
from fusevol.options.log_words import as_words
from fusevol.options.volume_words import VolumeOptions
from fusevol.processes import starting, succession
from fusevol.processes.forkserver import ForkServer
from fusevol.server import store
from fusevol.server.bound_mounts import scan
from fusevol.server.control import VolumeState
from fusevol.server.served_mount import ServedMount
from fusevol.server.store import Reference, StoredVolume
from fusevol.volume.source import open_path

logger = logging.getLogger(__name__)

_LOOK_S: Final = 2.0
"""How long a source may take to be looked at when it is served already."""
_END_S: Final = 15.0
"""How long a mount has to end on request, or to get another keeper after its keeper died."""
_SETTLE_S: Final = 5.0
"""How long a worker has to end after its mount is gone; it may be in use elsewhere."""


class ServedVolume:
    """A volume.

    Attributes:
        references: who refers to it.
        message: why its worker ended, if it failed.
        unused_since: when it lost its last reference, on the clock of trio.
    """

    def __init__(self, stored: StoredVolume, nursery: trio.Nursery, forks: ForkServer) -> None:
        """Make it known; nothing is served yet.

        Args:
            forks: starts keepers.
            nursery: where the workers are watched.
        """
        self.stored = stored
        self.references: dict[str, Reference] = {}
        self.message = ""
        self._notice = ""
        self.unused_since = trio.current_time()
        self._nursery = nursery
        self._forks = forks
        self._lock = trio.Lock()
        # A hung source holds up one thread, and what else wants to look at this source.
        self._thread = trio.CapacityLimiter(1)
        self._mount: ServedMount | None = None
        self._ended = trio.Event()
        self._is_lingering = False

    @property
    def name(self) -> str:
        """Its name."""
        return self.stored.name

    @property
    def source(self) -> str:
        """The directory or file behind it."""
        return self.stored.options.source or store.data_directory(self.name)

    @property
    def mountpoint(self) -> str:
        """Where it appears on the host while it is served."""
        return os.path.join(store.mountpoints_directory(), self.name)

    @property
    def device(self) -> int:
        """st_dev of its files while it is served; else 0."""
        return self._mount.device if self._mount else 0

    @property
    def is_serving(self) -> bool:
        """Whether it is mounted and a worker serves it."""
        return self._mount is not None and not self._is_lingering

    @property
    def is_alive(self) -> bool:
        """Whether a worker serves it, be it only for those who have it from another place."""
        return self._mount is not None

    def state(self) -> VolumeState:
        """Return what is reported about it."""
        options = self.stored.options
        serving = self.is_serving
        entry = self._mount.entry() if self._mount else None
        return VolumeState(
            name=self.name,
            source=self.source,
            subpath=options.subpath,
            record=options.record.value,
            read_only=options.ro,
            log=self.stored.log,
            on_log_failure=options.on_log_failure.value,
            deadline=options.deadline,
            strict=options.strict,
            created=self.stored.created,
            anonymous=self.stored.anonymous,
            references={holder: found.count for holder, found in self.references.items()},
            state="serving" if serving else "failed" if self.message else "idle",
            mountpoint=self.mountpoint if serving else "",
            keeper=entry.pid if entry else 0,
            worker=entry.worker if entry else 0,
            restarts=entry.restarts if entry else 0,
            message=(entry.message or self._notice) if entry else self.message,
            logging=as_words(options.logging),
        )

    def refer(self, holder: str, pid: int) -> None:
        """Count one more mount of a holder; `pid` is the process it ends with, 0 for none."""
        reference = self.references.setdefault(holder, Reference(since=time.time()))
        reference.count += 1
        if pid:
            reference.pid, reference.start_ticks = pid, start_ticks(pid)

    def unrefer(self, holder: str, *, whole: bool = False) -> None:
        """Count one mount of a holder less, or forget the `whole` holder; unknown ones are fine."""
        reference = self.references.get(holder)
        if reference is None:
            return
        reference.count -= 1
        if whole or reference.count <= 0:
            del self.references[holder]
            self.unused_since = trio.current_time()

    async def ensure(self) -> None:
        """Have it served.

        Raises:
            FusevolError: it cannot be served, and why.
        """
        async with self._lock:
            if self._mount is not None and await self._is_replaced(self._mount):
                await self._leave_source(self._mount)
            if await self._is_served():
                return
            config = await trio.to_thread.run_sync(
                self._prepare, limiter=self._thread, abandon_on_cancel=True
            )
            if self._mount is not None:
                # Two workers would number the same records.
                if await self._mount.put_back(config) and self.is_alive:
                    self._is_lingering = False
                    self.follow_options()
                    return
                await self._end()
            mount = ServedMount(config)
            await mount.start(self._forks)
            self._watch(mount)

    async def stop(self, *, although_referred: bool = False) -> bool:
        """Unmount it if nothing on the host uses it; return whether it is at its place no more.

        It may live on elsewhere: in a mount namespace that has bound it, or by what is open there.

        Args:
            although_referred: also if somebody refers to it. Without, who came to refer to it while
                this waited for its turn keeps it.
        """
        async with self._lock:
            if self.is_serving:
                assert self._mount
                if self.references and not although_referred:
                    return False
                if not await self._mount.unmount():
                    return False
            store.remove_mountpoint(self.mountpoint)
            if self.is_serving:
                try:
                    with trio.move_on_after(_SETTLE_S):
                        await self._ended.wait()
                finally:
                    self._is_lingering = self.is_alive
            return True

    async def end(self) -> None:
        """End what lives on after a stop; open files fail.

        Raises:
            FusevolError: it does not end.
        """
        async with self._lock:
            if self._mount is not None:
                await self._end()

    def adopt(self) -> None:
        """Go on with the worker of an earlier daemon; remove what is dead at the mount point."""
        served = registry.get(self.mountpoint)
        if served is not None:
            config = self._config(served.source)
            config.log, config.level = served.log, RecordLevel(served.level)
            mount = ServedMount(config)
            if mount.adopt(served) or mount.revive_stored(served):
                self._watch(mount)
                self._is_lingering = not registry.is_mounted(served)
                return
            registry.remove(self.mountpoint)
        self._remove_dead()

    async def check_source(self) -> None:
        """Look at the source; FusevolError if it cannot be served."""
        path = self._config(self.source).served_path
        await trio.to_thread.run_sync(
            check_source, path, limiter=self._thread, abandon_on_cancel=True
        )

    def change(self, options: VolumeOptions) -> None:
        """Take other options, for when it is served the next time."""
        self.stored = msgspec.structs.replace(self.stored, options=options)

    def follow_options(self) -> None:
        """Have a served volume follow those of its options that need no new mount."""
        if self._mount is None:
            return
        options, config = self.stored.options, self._mount.config
        # At level data the kernel was told once for all not to ask at each close.
        level = RecordLevel.DATA if options.record is RecordLevel.DATA else config.level
        wanted = msgspec.structs.replace(
            config,
            level=level,
            on_log_failure=options.on_log_failure,
            deadline=options.deadline,
            strict=options.strict,
            logging=options.logging,
        )
        if wanted != config:
            self._mount.change(wanted)

    def reopen_log(self) -> None:
        """Have the worker reopen its log, after it was renamed."""
        if self._mount is not None:
            self._mount.signal(signal.SIGHUP)

    def _watch(self, mount: ServedMount) -> None:
        self._mount, self._ended, self.message = mount, trio.Event(), ""
        self._notice = ""
        self._is_lingering = False
        self._nursery.start_soon(self._watch_until_end, mount)

    async def _watch_until_end(self, mount: ServedMount) -> None:
        status = await mount.ended()
        if status:
            self.message = succession.KILLED
            logger.error("volume %s: %s", self.name, self.message)
            mount.detach()
        mount.close()
        self._mount = None
        self._ended.set()
        self.unused_since = trio.current_time()
        if status:
            await trio.to_thread.run_sync(mount.record_end, self.message)

    async def _is_served(self) -> bool:
        """Return whether it is served at its place; waits while one keeper succeeds another."""
        with trio.move_on_after(_END_S):
            while self._mount is not None and self._mount.is_mounted():
                if self._mount.is_kept():
                    return True
                await trio.sleep(succession.POLL_S)
        return False

    async def _is_replaced(self, mount: ServedMount) -> bool:
        """Return whether the path of the source leads to something else by now; no if it hangs."""
        with trio.move_on_after(_LOOK_S):
            return await trio.to_thread.run_sync(
                self._leads_elsewhere, mount, limiter=self._thread, abandon_on_cancel=True
            )
        return False

    def _leads_elsewhere(self, mount: ServedMount) -> bool:
        served = mount.source_status()
        if served is None:
            return False
        try:
            fd = open_path(self._config(os.path.realpath(self.source)))
        except FusevolError:
            return True
        try:
            return not os.path.samestat(served, os.fstat(fd))
        finally:
            os.close(fd)

    async def _leave_source(self, mount: ServedMount) -> None:
        """End the mount of a source that was replaced, unless somebody uses it.

        Raises:
            FusevolError: somebody does, who would not see what the new one does.
        """
        users = sum(reference.count for reference in self.references.values())
        bound = await scan()
        if users > 1 or mount.device in bound or not await mount.unmount():
            path = self._config(self.source).served_path
            self._notice = f"its source {path} was replaced, but it still serves the old one"
            logger.warning("volume %s: %s", self.name, self._notice)
            raise FusevolError(
                f"volume {self.name} is in use, and {self._notice}; stop everything that uses the "
                f"volume, then mount it again"
            )
        logger.info("volume %s: its source was replaced; the new one is served", self.name)
        with trio.move_on_after(_SETTLE_S):
            await self._ended.wait()
        if self._mount is not None:
            await self._end()

    async def _end(self) -> None:
        """End the mount, wherever it is used; FusevolError if it does not end."""
        assert self._mount
        keeper = self._mount.keeper
        self._mount.end()
        with trio.move_on_after(_END_S):
            await self._ended.wait()
            return
        raise FusevolError(
            f"volume {self.name} is in use elsewhere and does not end (its keeper is process "
            f"{keeper}); check its source {self.source}"
        )

    def _config(self, source: str) -> MountConfig:
        options = self.stored.options
        flags = DEFAULT_FLAGS
        for on, flag in ((options.ro, mounts.MS_RDONLY), (options.noexec, mounts.MS_NOEXEC)):
            flags |= flag if on else 0
        for on, flag in ((options.suid, mounts.MS_NOSUID), (options.dev, mounts.MS_NODEV)):
            flags &= ~flag if on else ~0
        return MountConfig(
            source=source,
            mountpoint=self.mountpoint,
            name=self.name,
            log=self.stored.log,
            level=options.record,
            on_log_failure=options.on_log_failure,
            flags=flags,
            allowed=mounts.MS_NOEXEC if options.exec else 0,
            allow_other=os.geteuid() == 0,
            subpath=options.subpath,
            deadline=options.deadline,
            strict=options.strict,
            logging=options.logging,
        )

    def _prepare(self) -> MountConfig:
        """Return the mount to make; its mount point and its log's directory exist then."""
        if not self.stored.options.source:
            store.make_data_directory(self.name)
        config = self._config(os.path.realpath(self.source))
        self._remove_dead()
        store.make_mountpoint(self.mountpoint, config.served_path)
        starting.prepare(config, is_name_shared=True)
        return config

    def _remove_dead(self) -> None:
        while (mount := mount_at(self.mountpoint)) and mount.fstype == registry.FSTYPE:
            mounting.unmount(self.mountpoint, lazily=True)
