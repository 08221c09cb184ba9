"""The volumes of `fusevol serve`, and their holders.

What is asked about volumes is answered from memory, whatever their sources do. All methods belong
to trio's thread.

A volume is served from its first reference on, and for a while after the last one was given back.
References whose holders are gone without a word are found out (`holders`).
"""

import logging
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Final, Never

import trio

from fusevol.errors import FusevolError, NotFoundError, UsageError
from fusevol.linux.mountinfo import is_below
from fusevol.options.binding import is_volume_name
from fusevol.options.volume_words import VolumeOptions
from fusevol.processes import succession
from fusevol.processes.forkserver import ForkServer
from fusevol.server import store
from fusevol.server.bound_mounts import scan
from fusevol.server.control import VolumeState
from fusevol.server.holders import TEND_S, Holders, is_settled
from fusevol.server.served_volume import ServedVolume
from fusevol.server.settings import Settings, options_of
from fusevol.server.store import StoredVolume
from fusevol.server.volume_options import parse
from fusevol.spelling import did_you_mean

logger = logging.getLogger(__name__)

_SOURCE_S: Final = 10.0
"""How long a source may take to be looked at when a volume is made."""
_MOUNT_S: Final = 90.0
"""How long a mount may take. Docker gives up after 120 s."""
_STOP_S: Final = 20.0
_LOOKS: Final = 50
"""How often a volume is tried to be unmounted that is removed."""
_UNCLAIMED_S: Final = 60.0
"""How long an anonymous volume waits for its first reference."""


class Volumes:
    """All volumes."""

    def __init__(self, settings: Settings, nursery: trio.Nursery) -> None:
        """Start with none.

        Args:
            settings: the configuration.
            nursery: where workers are watched.
        """
        self._settings = settings
        self._nursery = nursery
        self._forks = ForkServer()
        self._volumes: dict[str, ServedVolume] = {}
        self._changing = trio.Lock()
        self._holders = Holders(self._volumes, self._save_references)
        self._stopping: set[str] = set()

    async def load(self) -> None:
        """Take up what earlier daemons left: volumes, references, workers; and the configuration.

        Raises:
            FusevolError: the state cannot be read, or the configuration cannot be followed.
        """
        for stored in store.load_volumes():
            self._volumes[stored.name] = ServedVolume(stored, self._nursery, self._forks)
        store.remove_other_mountpoints(self._volumes)
        for name, references in store.load_references().items():
            if name in self._volumes:
                self._volumes[name].references = references
        for volume in self._volumes.values():
            volume.adopt()
        await self._holders.reconcile(is_settled)
        self._nursery.start_soon(trio.to_thread.run_sync, store.empty_trash)
        await self.declare(self._settings)

    async def declare(self, settings: Settings) -> None:
        """Make or change the volumes that the configuration names."""
        self._settings = settings
        for name, words in settings.volumes.items():
            options = options_of(words)
            try:
                if name in self._volumes:
                    await self._change(name, parse(options))
                else:
                    await self.create(name, options)
            except FusevolError as error:
                raise type(error)(f"volume {name} of the configuration: {error}") from None

    def get(self, name: str) -> VolumeState:
        """Return one volume; NotFoundError if there is none of this name."""
        return self._find(name).state()

    def all(self) -> list[VolumeState]:
        """Return all volumes, in the order of their names."""
        return [self._volumes[name].state() for name in sorted(self._volumes)]

    async def create(self, name: str, options: Mapping[str, str]) -> VolumeState:
        """Make a volume; with an empty name an anonymous one, which goes with its last reference.

        What is there already with the same options is left as it is.

        Raises:
            UsageError: bad name or options, or the volume exists with other options.
            FusevolError: the source cannot be served.
        """
        parsed = parse(options)
        anonymous = not name
        name = name or secrets.token_hex(32)
        _check_name(name)
        _check_overlap(parsed)
        if name in self._volumes:
            return self._existing(name, parsed)
        stored = StoredVolume(name, _now(), parsed, anonymous)
        volume = ServedVolume(stored, self._nursery, self._forks)
        if parsed.source:
            with trio.move_on_after(_SOURCE_S) as scope:
                await volume.check_source()
            if scope.cancelled_caught:
                raise FusevolError(f"source {parsed.source} does not answer; check its storage")
        async with self._changing:
            if name in self._volumes:
                return self._existing(name, parsed)
            self._volumes[name] = volume
            try:
                await self._save()
            except BaseException:
                del self._volumes[name]
                raise
        return volume.state()

    async def update(self, name: str, options: Mapping[str, str]) -> VolumeState:
        """Change options of a volume; those that need no new mount take effect while it is in use.

        Raises:
            UsageError: a bad option; or another source while the volume is in use.
        """
        return await self._change(name, parse(options, self._find(name).stored.options))

    async def remove(self, name: str, *, by_engine: bool = False) -> VolumeState:
        """Remove a volume that nobody refers to, with its data if fusevol keeps them.

        Args:
            name: the volume.
            by_engine: an engine asks, which removes no volume that it has in a container: what it
                refers to and has not bound, it has forgotten.

        Raises:
            FusevolError: it is in use.
        """
        volume = self._find(name)
        if volume.references:
            await self._holders.reconcile(
                lambda other, holder, reference: (
                    (by_engine and other is volume) or is_settled(other, holder, reference)
                )
            )
        if volume.references:
            holders = ", ".join(sorted(volume.references))
            raise FusevolError(
                f"volume {name} is in use by {holders}; remove these first, or drop stale "
                f"references with `fusevol volume release {name}`"
            )
        state = volume.state()
        await self._forget(volume)
        try:
            if not await _stop(volume):
                raise FusevolError(
                    f"volume {name} is in use on the host; close what uses {state.mountpoint} "
                    f"(fuser -vm {state.mountpoint} shows it)"
                )
            await self._end_unreferenced(volume)
        except FusevolError:
            async with self._changing:
                self._volumes.setdefault(name, volume)
                await self._save()
            raise
        if not volume.stored.options.source:
            trash = store.discard_data(name)
            if trash:
                self._nursery.start_soon(trio.to_thread.run_sync, store.empty_trash)
        return state

    async def mount(self, name: str, holder: str, pid: int = 0) -> VolumeState:
        """Refer to a volume and have it served; its `mountpoint` can be bound then.

        Args:
            name: the volume.
            holder: who refers to it; counted.
            pid: process whose end ends the reference; 0 for none.

        Raises:
            NotFoundError: there is no such volume.
            FusevolError: it cannot be served. The reference is not kept then.
        """
        if not holder or len(holder) > 1024:
            raise UsageError(
                "mounting a volume requires the id of a holder, with at most 1024 characters"
            )
        volume = self._find(name)
        volume.refer(holder, pid)
        self._save_references()
        try:
            with trio.fail_after(_MOUNT_S):
                await volume.ensure()
        except BaseException as error:
            volume.unrefer(holder)
            self._save_references()
            if isinstance(error, trio.TooSlowError):
                raise FusevolError(
                    f"volume {name} could not be mounted within {_MOUNT_S:g} s; check its source "
                    f"{volume.source}"
                ) from None
            raise
        return volume.state()

    async def unmount(self, name: str, holder: str, all: bool = False) -> VolumeState:
        """Take a reference back; one that is not known is not an error.

        Args:
            name: the volume.
            holder: who referred to it; empty with `all` for everybody.
            all: take back all that the holder has.
        """
        volume = self._find(name)
        for one in list(volume.references) if all and not holder else [holder]:
            volume.unrefer(one, whole=all)
        self._save_references()
        state = volume.state()
        if volume.stored.anonymous and not volume.references:
            self._nursery.start_soon(self._remove_unused, volume)
        return state

    async def take_back(self, name: str, holder: str) -> None:
        """Take back a reference that was of no use to its holder, as if it had never been."""
        await self.unmount(name, holder)
        volume = self._volumes.get(name)
        if volume is not None and not volume.references and not volume.stored.anonymous:
            # A process that does not see the mount sees the directory that it is on.
            await self._stop_if_unbound(volume)

    async def tend(self) -> Never:
        """Find out references that have ended, and stop what nobody uses; for as long as we run."""
        scanned = trio.current_time()
        while True:
            await trio.sleep(TEND_S)
            try:
                self._holders.drop(lambda _volume, _holder, reference: reference.has_ended)
                if trio.current_time() - scanned >= self._holders.scan_interval_s():
                    scanned = trio.current_time()
                    await self._holders.reconcile(self._holders.is_missing)
                self._stop_unused()
            except Exception:
                logger.exception("checking for unused volumes failed; retrying")

    async def stop(self) -> None:
        """End the workers of volumes that nobody uses; the others go on without us.

        Who has mounted a volume a moment ago has yet to bind it, and would bind an empty directory.
        """
        await self._holders.reconcile(is_settled)
        devices = await scan()
        with trio.move_on_after(_STOP_S):
            async with trio.open_nursery() as nursery:
                for volume in self._volumes.values():
                    is_used = volume.references or volume.device in devices
                    if volume.is_serving and not is_used:
                        nursery.start_soon(partial(volume.stop, although_referred=True))
        self._forks.close()
        for volume in self._volumes.values():
            if volume.is_alive:
                logger.warning(
                    "volume %s is in use: it stays mounted, and the next `fusevol serve` takes it "
                    "over", volume.name,
                )  # fmt: skip

    def hang_up(self) -> None:
        """Have the workers reopen their logs."""
        for volume in self._volumes.values():
            volume.reopen_log()

    def _find(self, name: str) -> ServedVolume:
        try:
            return self._volumes[name]
        except KeyError:
            shown = name if is_volume_name(name) else ascii(name[:80])
            meant = did_you_mean(name, self._volumes) or "; `fusevol volume ls` lists them"
            raise NotFoundError(f"no volume named {shown}{meant}") from None

    def _existing(self, name: str, wanted: VolumeOptions) -> VolumeState:
        volume = self._volumes[name]
        if volume.stored.options != wanted:
            raise UsageError(
                f"volume {name} already exists with other options; change them with "
                f"`fusevol volume update {name}`, or remove it first"
            )
        return volume.state()

    async def _change(self, name: str, options: VolumeOptions) -> VolumeState:
        _check_overlap(options)
        async with self._changing:
            volume = self._find(name)
            before = volume.stored.options
            if options == before:
                return volume.state()
            if volume.is_serving and (options.source, options.subpath) != (
                before.source, before.subpath
            ):  # fmt: skip
                raise UsageError(
                    f"volume {name} is in use, so its source cannot change; stop its users first"
                )
            volume.change(options)
            try:
                await self._save()
            except BaseException:
                volume.change(before)
                raise
        if not volume.references:
            # The next one to use it shall find it as it is now.
            await self._stop_if_unbound(volume)
        volume.follow_options()
        return volume.state()

    async def _end_unreferenced(self, volume: ServedVolume) -> None:
        """End what a stopped volume lives on by; FusevolError if it is bound somewhere."""
        if volume.is_alive and (pid := (await scan()).get(volume.device)):
            raise FusevolError(
                f"volume {volume.name} is still bound in the mount namespace of process {pid}; "
                f"stop that process, or unmount the volume there"
            )
        await volume.end()

    async def _forget(self, volume: ServedVolume) -> None:
        async with self._changing:
            if self._volumes.get(volume.name) is not volume or volume.references:
                raise FusevolError(f"volume {volume.name} was changed meanwhile; try again")
            del self._volumes[volume.name]
            try:
                await self._save()
            except BaseException:
                self._volumes[volume.name] = volume
                raise
        self._save_references()

    async def _save(self) -> None:
        kept = [volume.stored for volume in self._volumes.values()]
        try:
            await trio.to_thread.run_sync(store.save_volumes, kept)
        except OSError as error:
            raise FusevolError(f"{error.filename} cannot be written: {error.strerror}") from None

    def _save_references(self) -> None:
        held = {v.name: v.references for v in self._volumes.values() if v.references}
        try:
            store.save_references(held)
        except OSError as error:
            logger.error("%s cannot be written: %s", error.filename, error.strerror)

    def _stop_unused(self) -> None:
        now = trio.current_time()
        for volume in self._volumes.values():
            if volume.references or volume.name in self._stopping:
                continue
            unused_s = now - volume.unused_since
            if volume.stored.anonymous:
                if unused_s >= _UNCLAIMED_S or volume.is_serving:
                    self._nursery.start_soon(self._remove_unused, volume)
            elif volume.is_serving and unused_s >= self._settings.idle_timeout:
                self._stopping.add(volume.name)
                self._nursery.start_soon(self._stop_idle, volume)

    async def _stop_idle(self, volume: ServedVolume) -> None:
        try:
            await self._stop_if_unbound(volume)
        finally:
            self._stopping.discard(volume.name)

    async def _stop_if_unbound(self, volume: ServedVolume) -> None:
        """Stop it, unless a process uses it without a reference."""
        if volume.is_serving and volume.device not in await scan() and not volume.references:
            await volume.stop()

    async def _remove_unused(self, volume: ServedVolume) -> None:
        if self._volumes.get(volume.name) is not volume or volume.name in self._stopping:
            return
        self._stopping.add(volume.name)
        try:
            if not volume.is_serving or volume.device not in await scan():
                await self.remove(volume.name)
        except FusevolError as error:
            logger.info("%s", error)
        finally:
            self._stopping.discard(volume.name)


async def _stop(volume: ServedVolume) -> bool:
    """Stop a volume, if need be once a process has finished that only looked at it, as df does."""
    for _ in range(_LOOKS):
        if await volume.stop():
            return True
        await trio.sleep(succession.POLL_S)
    return False


def _check_name(name: str) -> None:
    if not is_volume_name(name):
        raise UsageError(
            f"invalid volume name {name[:80]!r}; use letters, digits, '_', '.' and '-', two to 128 "
            f"of them, and begin with a letter or digit"
        )


def _check_overlap(options: VolumeOptions) -> None:
    ours = store.mountpoints_directory()
    source = options.source
    if source and (source == ours or is_below(ours, source) or is_below(source, ours)):
        raise UsageError(
            f"source {source} overlaps with {ours}, where volumes are mounted; choose another"
        )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
