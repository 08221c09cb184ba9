"""What happens on all mounts, as one frame for each interval."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Self

from fusevol.errors import FusevolError
from fusevol.logagent import status
from fusevol.mounts.registry import MountEntry
from fusevol.options.config import NO_LOG, STDOUT_LOG
from fusevol.recovery.counters import Snapshot
from fusevol.terminal import printable, quoted
from fusevol.top.activity import Activity, Operations, between, total
from fusevol.top.mounts import CounterFiles, Key, Mounts, key_of
from fusevol.top.newlines import Actor, NewLines, WatchedLog

_BYTES_PER_S: Final = 1 << 20
"""How much of all logs is read, together: about 4,000 records a second, or 2 % of a processor."""
_MOST_BYTES: Final = 4 << 20

Wanted = Callable[[MountEntry], bool]
NameOf = Callable[[str], str | None]
"""Returns the name of a container by its id, if it has one."""


@dataclass(slots=True)
class VolumeFrame:
    """What happened on one mount within a frame.

    Attributes:
        now: its counters; None if they cannot be read.
        operations: by name; None while there is nothing to compare the counters with. `total` is
            all of them together.
        paths, processes: from the part of its log that was read, scaled to all of it.
        share: how much of what came into the log that is.
        lost: operations without a record, within the frame.
        has_log: whether it has a log that can be read.
        notes: what is wrong, as printable lines.
    """

    served: MountEntry
    now: Snapshot | None = None
    operations: Operations | None = None
    total: Activity | None = None
    paths: dict[str, Activity] = field(default_factory=dict)
    processes: dict[Actor, Activity] = field(default_factory=dict)
    share: float = 1.0
    lost: int = 0
    has_log: bool = True
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Frame:
    """What happened within some time.

    Attributes:
        at: when that ended, in seconds since the epoch.
        seconds: how long it was.
        volumes: in the order of their mount points.
        container_names: id -> name, of those containers in it that have one.
    """

    at: float
    seconds: float
    volumes: list[VolumeFrame]
    container_names: dict[str, str]


class FrameCollector(contextlib.ExitStack):
    """Makes frames. One thread only; to be closed."""

    def __init__(self, wanted: Wanted, name_of: NameOf) -> None:
        """Take the state of now as what the first frame is compared with.

        Args:
            wanted: which mounts to look at.
            name_of: returns the names of containers.

        Raises:
            NotPermittedError: the runtime directory belongs to somebody else.
        """
        super().__init__()
        self._wanted = wanted
        self._name_of = name_of
        self._mounts = self.enter_context(Mounts())
        self._files = self.enter_context(CounterFiles())
        self._logs = self.enter_context(_Logs())
        self._older: dict[Key, tuple[int, Snapshot]] = {}
        self._time = time.monotonic()
        self.frame()

    def frame(self) -> Frame:
        """Return what has happened since the last call.

        Raises:
            NotPermittedError: the runtime directory belongs to somebody else.
        """
        volumes = [VolumeFrame(served) for served in self._mounts.now() if self._wanted(served)]
        now = time.monotonic()
        seconds, self._time = now - self._time, now
        for volume in volumes:
            self._count(volume)
        self._logs.read(volumes, seconds)
        keys = {key_of(volume.served) for volume in volumes}
        self._files.forget_others(keys)
        self._older = {key: older for key, older in self._older.items() if key in keys}
        return Frame(time.time(), max(seconds, 1e-3), volumes, self._names(volumes))

    def _count(self, volume: VolumeFrame) -> None:
        served = volume.served
        if served.message:
            volume.notes.append(printable(served.message))
        if not served.worker:
            volume.notes.append("no worker is serving it right now")
        volume.notes += _sink_troubles(served)
        reading = self._files.read(served)
        if (now := reading.snapshot) is None:
            volume.notes.append(reading.trouble)
            return
        volume.now = now
        state, older = self._older.get(key_of(served), (-1, now))
        self._older[key_of(served)] = reading.state, now
        if state != reading.state:
            return
        volume.operations = between(older, now)
        volume.total = total(volume.operations.values())
        volume.lost = now.lost - older.lost
        if not volume.total.count and not served.is_kept:
            volume.notes.append("its keeper and worker have exited; unmount it")
        if volume.lost:
            volume.notes.append(f"{volume.lost} OPERATIONS WERE NOT RECORDED")
        if now.restarts > older.restarts:
            volume.notes.append("its worker was replaced by another")

    def _names(self, volumes: Iterable[VolumeFrame]) -> dict[str, str]:
        ids = {one.container for volume in volumes for one in volume.processes if one.container}
        return {one: name for one in ids if (name := self._name_of(one)) is not None}


def _sink_troubles(served: MountEntry) -> Iterator[str]:
    agent = status.read(served.log)
    for sink in agent.sinks if agent is not None else ():
        if sink.error:
            yield printable(f"{sink.behind} records wait for {sink.sink}: {sink.error}")


class _Logs:
    """The logs of all mounts, with a bound on what is read of them together."""

    def __init__(self) -> None:
        self._logs: dict[Key, WatchedLog] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._forget_others(set())

    def read(self, volumes: list[VolumeFrame], seconds: float) -> None:
        """Put into each volume what its log has got, and what is wrong with the log."""
        self._forget_others({key_of(volume.served) for volume in volumes})
        sizes = {}
        for volume in volumes:
            with _noted(volume):
                if (log := self._log_of(volume)) is not None:
                    sizes[key_of(volume.served)] = log.look()
        most = fair_share(sizes.values(), min(int(seconds * _BYTES_PER_S), _MOST_BYTES))
        for volume in volumes:
            key = key_of(volume.served)
            if sizes.get(key):
                with _noted(volume):
                    _take(volume, self._logs[key].read(most))

    def _log_of(self, volume: VolumeFrame) -> WatchedLog | None:
        path, key = volume.served.log, key_of(volume.served)
        if path in (NO_LOG, STDOUT_LOG):
            volume.has_log = False
            return None
        if key in self._logs and self._logs[key].path != path:
            self._logs.pop(key).close()
        if key not in self._logs:
            self._logs[key] = WatchedLog(path)
        log = self._logs[key]
        if log.is_removed:
            volume.notes.append(f"its log {quoted(path)} was removed")
        return log

    def _forget_others(self, keys: set[Key]) -> None:
        for key in self._logs.keys() - keys:
            self._logs.pop(key).close()


@contextlib.contextmanager
def _noted(volume: VolumeFrame) -> Iterator[None]:
    """Make a note of an error that the block raises."""
    try:
        yield
    except FusevolError as error:
        volume.has_log = False
        volume.notes.append(printable(str(error)))


def fair_share(sizes: Iterable[int], most: int) -> int:
    """Return how much each may have at most so that all of them have no more than `most`."""
    ordered = sorted(sizes)
    for place, size in enumerate(ordered):
        share = most // (len(ordered) - place)
        if size > share:
            return share
        most -= size
    return most + max(ordered, default=0)


def _take(volume: VolumeFrame, lines: NewLines) -> None:
    volume.share = lines.share
    if 0 < lines.share < 1:
        for one in (*lines.paths.values(), *lines.processes.values()):
            one.scale(1 / lines.share)
    volume.paths, volume.processes = lines.paths, lines.processes
    if lines.malformed:
        volume.notes.append(f"{lines.malformed} lines of its log are not records")
