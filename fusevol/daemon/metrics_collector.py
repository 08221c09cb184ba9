"""Where the numbers come from: the registry, recovery states, log agents, /proc.

Nothing is asked of a keeper or a worker, so one that hangs or has just died holds up nothing. All
of it may run in any thread, one call at a time.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from fusevol import __version__
from fusevol.accesslog.names import encode_name
from fusevol.config import NO_LOG, STDOUT_LOG
from fusevol.daemon import metrics, metrics_host, registry, store
from fusevol.daemon.control import VolumeState
from fusevol.daemon.metrics import Histogram, Reading
from fusevol.errors import FusevolError
from fusevol.linux.process import Process
from fusevol.logagent import status as agents
from fusevol.recovery import counters, log_trouble

_STATES: Final = ("failed", "idle", "serving")


class Collector:
    """Reads everything at once."""

    def __init__(self) -> None:
        self._space = metrics_host.FreeSpace()
        self._started_ns: dict[int, int] = {}
        """Inode number of a recovery state -> since when it counts."""

    def collect(self, volumes: Sequence[VolumeState]) -> Reading:
        """Return what is known now.

        Args:
            volumes: those of the daemon. The registry has other mounts of this user besides.
        """
        reading = self._of_daemon()
        states = Counter(volume.state for volume in volumes)
        for state in _STATES:
            reading.add(metrics.VOLUMES, states[state], state)
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
                reading.add(metrics.UP, 0, volume.name)
        return reading

    def _of_daemon(self) -> Reading:
        used = metrics_host.process(os.getpid())
        assert used is not None
        reading = Reading(used.started_ns)
        reading.add(metrics.BUILD, 1, __version__)
        reading.add(metrics.CPU, used.cpu_s)
        reading.add(metrics.MEMORY, used.resident_bytes)
        reading.add(metrics.DESCRIPTORS, len(os.listdir("/proc/self/fd")))
        reading.add(metrics.START, used.started_ns / 1e9)
        return reading

    def _add_mount(
        self, reading: Reading, mount: registry.Served, name: str, before: Mapping[int, int]
    ) -> None:
        """Add what a mount counts.

        Args:
            before: state -> since when it counts, as far as that was known. The keeper may be
                succeeded by a process that is younger than the counters.
        """
        is_up = mount.server.runs()
        reading.add(metrics.UP, int(is_up), name)
        keeper = _add_process(reading, mount.keeper, "keeper", name)
        _add_process(reading, mount.server, "worker", name)
        fd = registry.open_state(mount)
        if fd < 0:
            return
        try:
            _add_counters(reading, counters.read(fd), name)
            if mount.log != NO_LOG:
                reading.add(metrics.LOG_UP, int(not log_trouble.read(fd).is_stopped), name)
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


def _names(mounts: Sequence[registry.Served], ours: Mapping[str, str]) -> dict[str, str]:
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


def _add_counters(reading: Reading, counts: counters.Snapshot, name: str) -> None:
    for op, one in counts.operations.items():
        reading.add(metrics.OPERATIONS, one.count, op, name)
        reading.add(metrics.DURATION, Histogram.of(one.buckets, one.us_total), op, name)
        for errno, times in one.errors.items():
            reading.add(metrics.ERRORS, times, errno, op, name)
    for metric, value in (
        (metrics.READ, counts.bytes_read),
        (metrics.WRITTEN, counts.bytes_written),
        (metrics.INODES, counts.known_inodes),
        (metrics.FILES, counts.open_files),
        (metrics.DIRECTORIES, counts.open_directories),
        (metrics.RESTARTS, counts.restarts),
        (metrics.LOG_BYTES, counts.log_bytes),
        (metrics.LOG_RECORDS, counts.records),
        (metrics.LOG_LOST, counts.lost),
        (metrics.LOG_FILTERED, counts.left_out),
    ):
        reading.add(metric, value, name)


def _is_file(log: str) -> bool:
    return log not in (NO_LOG, STDOUT_LOG)


def _log_directory(log: str) -> str:
    return os.path.dirname(log) or "/"


def _add_log(reading: Reading, mount: registry.Served, name: str, free: Mapping[str, int]) -> None:
    directory = _log_directory(mount.log)
    if directory in free:
        reading.add(metrics.LOG_FREE, free[directory], name)
    agent = agents.read(mount.log)
    if agent is not None or mount.agent_trouble:
        reading.add(metrics.AGENT_UP, int(not mount.agent_trouble), name)
    if agent is None:
        return
    _add_process(reading, agent.process, "agent", name)
    reading.add(metrics.LOG_SIZE, agent.total_bytes, name)
    reading.add(metrics.LOG_FILES, agent.rotated_files, name)
    for sink in {one.sink: one for one in agent.sinks}.values():
        reading.add(metrics.SINK_UP, int(not sink.error), _text(sink.sink), name)
        reading.add(metrics.SINK_SENT, sink.seq, _text(sink.sink), name)
        reading.add(metrics.SINK_BEHIND, sink.behind, _text(sink.sink), name)


def _add_process(
    reading: Reading, process: Process, role: str, name: str
) -> metrics_host.Process | None:
    used = metrics_host.process(process.pid) if process.runs() else None
    if used is not None:
        reading.add(metrics.VOLUME_CPU, used.cpu_s, role, name)
        reading.add(metrics.VOLUME_MEMORY, used.resident_bytes, role, name)
    return used
