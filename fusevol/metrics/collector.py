"""Where the numbers come from: the registry, recovery states, log agents, /proc.

Nothing is asked of a keeper or a worker, so one that hangs or has just died holds up nothing. All
of it may run in any thread, one call at a time.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from fusevol import __version__
from fusevol.errors import FusevolError
from fusevol.linux.process import Process
from fusevol.logagent import status as agents
from fusevol.metrics import catalog, host
from fusevol.metrics.catalog import Histogram, Samples
from fusevol.mounts import registry
from fusevol.names import encode_name
from fusevol.options.config import NO_LOG, STDOUT_LOG
from fusevol.recovery import counters, log_trouble
from fusevol.server import store
from fusevol.server.control import VolumeState

_STATES: Final = ("failed", "idle", "serving")


class MetricsCollector:
    """Reads everything at once."""

    def __init__(self) -> None:
        self._space = host.FreeSpace()
        self._started_ns: dict[int, int] = {}
        """Inode number of a recovery state -> since when it counts."""

    def collect(self, volumes: Sequence[VolumeState]) -> Samples:
        """Return what is known now.

        Args:
            volumes: those of the daemon. The registry has other mounts of this user besides.
        """
        reading = self._of_daemon()
        states = Counter(volume.state for volume in volumes)
        for state in _STATES:
            reading.add(catalog.VOLUMES, states[state], state)
        mounts = registry.all_served()
        ours = {_mountpoint(volume): volume.name for volume in volumes}
        names = _names(mounts, ours)
        free = self._space.of(_log_directory(one.log) for one in mounts if _is_file(one.log))
        before, self._started_ns = self._started_ns, {}
        for mount in mounts:
            name = names[mount.mountpoint]
            self._add_mount(reading, mount, name, before)
            if _is_file(mount.log):
                _add_log(reading, mount, name, free)
        for volume in volumes:
            if volume.state == "failed" and _mountpoint(volume) not in names:
                reading.add(catalog.UP, 0, volume.name)
        return reading

    def _of_daemon(self) -> Samples:
        used = host.process(os.getpid())
        assert used is not None
        reading = Samples(used.started_ns)
        reading.add(catalog.BUILD, 1, __version__)
        reading.add(catalog.CPU, used.cpu_s)
        reading.add(catalog.MEMORY, used.resident_bytes)
        reading.add(catalog.DESCRIPTORS, len(os.listdir("/proc/self/fd")))
        reading.add(catalog.START, used.started_ns / 1e9)
        return reading

    def _add_mount(
        self, reading: Samples, mount: registry.MountEntry, name: str, before: Mapping[int, int]
    ) -> None:
        """Add what a mount counts.

        Args:
            before: state -> since when it counts, as far as that was known. The keeper may be
                succeeded by a process that is younger than the counters.
        """
        is_up = mount.server.runs()
        reading.add(catalog.UP, int(is_up), name)
        keeper = _add_process(reading, mount.keeper, "keeper", name)
        _add_process(reading, mount.server, "worker", name)
        fd = registry.open_state(mount)
        if fd < 0:
            return
        try:
            _add_counters(reading, counters.read(fd), name)
            if mount.log != NO_LOG:
                reading.add(catalog.LOG_UP, int(not log_trouble.read(fd).is_stopped), name)
            state = os.fstat(fd).st_ino
            started = before.get(state, keeper.started_ns if keeper else None)
            if started is not None:
                self._started_ns[state] = reading.started_ns[name] = started
        except FusevolError:
            pass  # It was mounted by another version, and is not counted.
        finally:
            os.close(fd)


def _mountpoint(volume: VolumeState) -> str:
    """Return where a volume is mounted, or would be."""
    return os.path.join(store.mountpoints_directory(), volume.name)


def _names(mounts: Sequence[registry.MountEntry], ours: Mapping[str, str]) -> dict[str, str]:
    """Return mount point -> label, a different one for each.

    What was mounted by `fusevol mount` may be called like a volume, or like another mount.
    """
    given = Counter(mount.name for mount in mounts if mount.mountpoint not in ours)
    taken = set(ours.values())
    return {
        mount.mountpoint: ours.get(mount.mountpoint) or _text(
            mount.name
            if given[mount.name] == 1 and mount.name not in taken
            else f"{mount.name}@{mount.mountpoint}"
        )
        for mount in mounts
    }  # fmt: skip


def _text(name: str) -> str:
    return encode_name(os.fsencode(name))


def _add_counters(reading: Samples, counts: counters.Snapshot, name: str) -> None:
    for op, one in counts.operations.items():
        reading.add(catalog.OPERATIONS, one.count, op, name)
        reading.add(catalog.DURATION, Histogram.of(one.buckets, one.us_total), op, name)
        for errno, times in one.errors.items():
            reading.add(catalog.ERRORS, times, errno, op, name)
    for metric, value in (
        (catalog.READ, counts.bytes_read),
        (catalog.WRITTEN, counts.bytes_written),
        (catalog.INODES, counts.known_inodes),
        (catalog.FILES, counts.open_files),
        (catalog.DIRECTORIES, counts.open_directories),
        (catalog.RESTARTS, counts.restarts),
        (catalog.LOG_BYTES, counts.log_bytes),
        (catalog.LOG_RECORDS, counts.records),
        (catalog.LOG_LOST, counts.lost),
        (catalog.LOG_FILTERED, counts.left_out),
    ):
        reading.add(metric, value, name)


def _is_file(log: str) -> bool:
    return log not in (NO_LOG, STDOUT_LOG)


def _log_directory(log: str) -> str:
    return os.path.dirname(log) or "/"


def _add_log(
    reading: Samples, mount: registry.MountEntry, name: str, free: Mapping[str, int]
) -> None:
    directory = _log_directory(mount.log)
    if directory in free:
        reading.add(catalog.LOG_FREE, free[directory], name)
    agent = agents.read(mount.log)
    if agent is not None or mount.agent_trouble:
        reading.add(catalog.AGENT_UP, int(not mount.agent_trouble), name)
    if agent is None:
        return
    _add_process(reading, agent.process, "agent", name)
    reading.add(catalog.LOG_SIZE, agent.total_bytes, name)
    reading.add(catalog.LOG_FILES, agent.rotated_files, name)
    for sink in {one.sink: one for one in agent.sinks}.values():
        reading.add(catalog.SINK_UP, int(not sink.error), _text(sink.sink), name)
        reading.add(catalog.SINK_SENT, sink.seq, _text(sink.sink), name)
        reading.add(catalog.SINK_BEHIND, sink.behind, _text(sink.sink), name)


def _add_process(
    reading: Samples, process: Process, role: str, name: str
) -> host.ProcessUsage | None:
    used = host.process(process.pid) if process.runs() else None
    if used is not None:
        reading.add(catalog.VOLUME_CPU, used.cpu_s, role, name)
        reading.add(catalog.VOLUME_MEMORY, used.resident_bytes, role, name)
    return used
