"""Holders of volumes that are gone without returning their references.

That is found out by the process that a reference names, or by there being no bind of the volume in
any mount namespace any more: Docker does not unmount what it had mounted before it was killed. All
methods belong to trio's thread.
"""

import logging
import time
from collections.abc import Callable, Container, Mapping
from typing import Final

import trio

from fusevol.server.bound_mounts import scan
from fusevol.server.served_volume import ServedVolume
from fusevol.server.store import Reference

logger = logging.getLogger(__name__)

TEND_S: Final = 1.0
"""How often volumes are looked after."""
_SCAN_S: Final = 10.0
_MISSING_S: Final = 10.0
"""How long a holder may be seen without its bind before it is taken to be gone."""
_SETTLED_S: Final = 30.0
"""A holder of a volume that has not bound it after this is not about to start a container."""
_COPYING_S: Final = 900.0
"""How long Docker may take to fill a new volume from the image before it binds it."""

IsGone = Callable[[ServedVolume, str, Reference], bool]
"""Says of a volume, the id of a holder and its reference whether that is to be dropped."""


class Holders:
    """Those of all volumes."""

    def __init__(self, volumes: Mapping[str, ServedVolume], save: Callable[[], None]) -> None:
        """Watch the references of `volumes`.

        Args:
            volumes: by their names, as they are at any time.
            save: keeps the references, after a change.
        """
        self._volumes = volumes
        self._save = save
        self._missing: dict[tuple[str, str], float] = {}
        self._started = time.time()

    async def reconcile(self, is_gone: IsGone) -> None:
        """Drop references without a process whose volume is bound nowhere, as `is_gone` decides."""
        if not any(volume.references for volume in self._volumes.values()):
            return
        devices = await scan()
        if self._note_bound(devices):
            self._save()
        self.drop(
            lambda volume, holder, reference: reference.has_ended or (
                not reference.pid and volume.device not in devices
                and is_gone(volume, holder, reference)
            )
        )  # fmt: skip

    def _note_bound(self, devices: Container[int]) -> bool:
        """Note which references have their volume bound; return whether any is new in that."""
        is_new = False
        for volume in self._volumes.values():
            if volume.device in devices:
                for holder, reference in volume.references.items():
                    is_new |= not reference.bound
                    reference.bound = True
                    self._missing.pop((volume.name, holder), None)
        return is_new

    def scan_interval_s(self) -> float:
        """Return how long to wait between looks: a new reference is soon bound, or never."""
        now = time.time()
        waiting = any(
            not reference.pid and not reference.bound and now - reference.since < _SETTLED_S
            for volume in self._volumes.values()
            for reference in volume.references.values()
        )
        return TEND_S if waiting else _SCAN_S

    def is_missing(self, volume: ServedVolume, holder: str, reference: Reference) -> bool:
        """Whether it had the volume bound and has not any more, or never came to bind it."""
        if not reference.bound:
            # A holder that an earlier daemon answered may have ended while there was none.
            limit_s = _SETTLED_S if reference.since < self._started else _COPYING_S
            return time.time() - reference.since > limit_s
        now = trio.current_time()
        return now - self._missing.setdefault((volume.name, holder), now) >= _MISSING_S

    def drop(self, has_gone: IsGone) -> None:
        """Drop the references of which `has_gone` says so."""
        dropped = False
        for volume in list(self._volumes.values()):
            for holder, reference in list(volume.references.items()):
                if has_gone(volume, holder, reference):
                    logger.info("volume %s: %s is gone", volume.name, holder)
                    volume.unrefer(holder, whole=True)
                    self._missing.pop((volume.name, holder), None)
                    dropped = True
        if dropped:
            self._save()


def is_settled(_volume: ServedVolume, _holder: str, reference: Reference) -> bool:
    """Return whether a holder has bound the volume, or is not about to."""
    return reference.bound or time.time() - reference.since > _SETTLED_S
