"""The metrics of the daemon: which there are, and what is known of each at one moment.

Names follow Prometheus' conventions. By OpenTelemetry they are called so that its rules for
Prometheus lead back to them: `fusevol_read_bytes_total` is `fusevol.read` in bytes. Labels have few
values: never a path in a volume, a user or a process id.
"""

import enum
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, NamedTuple


class MetricKind(enum.Enum):
    """How the values of a metric are to be taken."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name: as Prometheus has it.
        labels: in the order of their names.
        unit: as UCUM writes it: "s", "By", or in braces what is counted.
        semantic_name: its name by OpenTelemetry's semantic conventions, where these have one.
    """

    name: str
    kind: MetricKind
    text: str
    labels: tuple[str, ...] = ("volume",)
    unit: str = ""
    semantic_name: str = ""

    @property
    def otel_name(self) -> str:
        """What OpenTelemetry calls it."""
        if self.semantic_name:
            return self.semantic_name
        name = self.name.removesuffix("_total")
        return name.removesuffix(_UNIT_SUFFIXES.get(self.unit, "")).replace("_", ".")


_UNIT_SUFFIXES: Final = {"s": "_seconds", "By": "_bytes"}

_EXPONENTS: Final = (*range(4, 10), *range(10, 26, 2))
BOUNDS_S: Final = tuple(2.0**exponent / 1e6 for exponent in _EXPONENTS)
"""Upper bounds of the buckets of a histogram, in seconds, without infinity: 16 us to 17 s. Finer
where most operations are, since each bucket is a time series for each operation of each volume."""


class Histogram(NamedTuple):
    """The value of a histogram.

    Attributes:
        counts: how many were in each bucket; one more than BOUNDS_S.
        total: sum of all, in seconds.
    """

    counts: tuple[int, ...]
    total: float

    @classmethod
    def of(cls, buckets: tuple[int, ...], us_total: int) -> "Histogram":
        """Make one of buckets of which the nth has times below 2**n microseconds."""
        ends = [0, *(exponent + 1 for exponent in _EXPONENTS), len(buckets)]
        counts = tuple(sum(buckets[begin:end]) for begin, end in pairwise(ends))
        return cls(counts, us_total / 1e6)


Value = int | float | Histogram
Sample = tuple[tuple[str, ...], Value]
"""The values of the labels, and the value."""

_OPERATION: Final = ("op", "volume")

UP: Final = Metric(
    "fusevol_up", MetricKind.GAUGE, "1 if the volume is served, 0 if it should be but is not."
)
VOLUMES: Final = Metric(
    "fusevol_volumes", MetricKind.GAUGE,
    "Volumes of the daemon; idle ones are mounted when needed.", ("state",), "{volume}",
)  # fmt: skip
OPERATIONS: Final = Metric(
    "fusevol_operations_total", MetricKind.COUNTER, "Completed operations, including failed ones.",
    _OPERATION, "{operation}",
)  # fmt: skip
ERRORS: Final = Metric(
    "fusevol_operation_errors_total", MetricKind.COUNTER, "Operations that failed.",
    ("errno", *_OPERATION), "{operation}",
)  # fmt: skip
DURATION: Final = Metric(
    "fusevol_operation_duration_seconds", MetricKind.HISTOGRAM,
    "Duration of operations, from the receipt of the request to its answer.", _OPERATION, "s",
)  # fmt: skip
READ: Final = Metric(
    "fusevol_read_bytes_total", MetricKind.COUNTER, "Bytes read by clients.", unit="By"
)
WRITTEN: Final = Metric(
    "fusevol_written_bytes_total", MetricKind.COUNTER, "Bytes written by clients.", unit="By"
)
INODES: Final = Metric(
    "fusevol_known_inodes", MetricKind.GAUGE, "Inodes that the kernel knows.", unit="{inode}"
)
FILES: Final = Metric(
    "fusevol_open_files", MetricKind.GAUGE, "Files that clients have open.", unit="{file}"
)
DIRECTORIES: Final = Metric(
    "fusevol_open_directories", MetricKind.GAUGE, "Directories that clients have open.",
    unit="{directory}",
)  # fmt: skip
RESTARTS: Final = Metric(
    "fusevol_worker_restarts_total", MetricKind.COUNTER, "Workers that died and were replaced.",
    unit="{restart}",
)  # fmt: skip
LOG_BYTES: Final = Metric(
    "fusevol_log_bytes_total", MetricKind.COUNTER, "Bytes written to the access log.", unit="By"
)
LOG_RECORDS: Final = Metric(
    "fusevol_log_records_total", MetricKind.COUNTER, "Records written to the access log.",
    unit="{record}",
)  # fmt: skip
LOG_LOST: Final = Metric(
    "fusevol_log_lost_records_total", MetricKind.COUNTER,
    "Operations without a record, because the access log could not be written.", unit="{record}",
)  # fmt: skip
LOG_UP: Final = Metric(
    "fusevol_log_up",
    MetricKind.GAUGE,
    "1 if the access log can be written, 0 if operations go unrecorded or are refused.",
)
LOG_FILTERED: Final = Metric(
    "fusevol_log_filtered_records_total", MetricKind.COUNTER,
    "Operations that a filter kept out of the access log.", unit="{record}",
)  # fmt: skip
LOG_SIZE: Final = Metric(
    "fusevol_log_size_bytes", MetricKind.GAUGE, "Size of the access log and its rotated files.",
    unit="By",
)  # fmt: skip
LOG_FILES: Final = Metric(
    "fusevol_log_rotated_files", MetricKind.GAUGE, "Rotated files of the access log.", unit="{file}"
)
LOG_FREE: Final = Metric(
    "fusevol_log_free_bytes",
    MetricKind.GAUGE,
    "Free space on the file system of the access log.",
    unit="By",
)
AGENT_UP: Final = Metric(
    "fusevol_log_agent_up",
    MetricKind.GAUGE,
    "1 if the access log has its agent, 0 if it should have one but does not.",
)
SINK_UP: Final = Metric(
    "fusevol_log_sink_up", MetricKind.GAUGE, "1 if the sink accepts records, 0 if not.",
    ("sink", "volume"),
)  # fmt: skip
SINK_SENT: Final = Metric(
    "fusevol_log_sink_sent_records_total", MetricKind.COUNTER, "Records sent to the sink.",
    ("sink", "volume"), "{record}",
)  # fmt: skip
SINK_BEHIND: Final = Metric(
    "fusevol_log_sink_behind_records", MetricKind.GAUGE, "Records that wait for the sink.",
    ("sink", "volume"), "{record}",
)  # fmt: skip
VOLUME_CPU: Final = Metric(
    "fusevol_process_cpu_seconds_total", MetricKind.COUNTER,
    "CPU time of the processes of a volume: keeper, worker and log agent.",
    ("process", "volume"), "s",
)  # fmt: skip
VOLUME_MEMORY: Final = Metric(
    "fusevol_process_resident_memory_bytes", MetricKind.GAUGE,
    "Resident memory of the processes of a volume, including shared memory.",
    ("process", "volume"), "By",
)  # fmt: skip
BUILD: Final = Metric("fusevol_build_info", MetricKind.GAUGE, "Always 1.", ("version",))
CPU: Final = Metric(
    "process_cpu_seconds_total", MetricKind.COUNTER, "CPU time of the daemon.", (), "s",
    "process.cpu.time",
)  # fmt: skip
MEMORY: Final = Metric(
    "process_resident_memory_bytes", MetricKind.GAUGE, "Resident memory of the daemon.", (), "By",
    "process.memory.usage",
)  # fmt: skip
DESCRIPTORS: Final = Metric(
    "process_open_fds", MetricKind.GAUGE, "Open file descriptors of the daemon.", (),
    "{file_descriptor}", "process.unix.file_descriptor.count",
)  # fmt: skip
START: Final = Metric(
    "process_start_time_seconds", MetricKind.GAUGE,
    "Start time of the daemon, in seconds since 1970.", (), "s",
)  # fmt: skip

METRICS: Final = (
    UP, VOLUMES, OPERATIONS, ERRORS, DURATION, READ, WRITTEN, INODES, FILES, DIRECTORIES, RESTARTS,
    LOG_UP, LOG_BYTES, LOG_RECORDS, LOG_LOST, LOG_FILTERED, LOG_SIZE, LOG_FILES, LOG_FREE,
    AGENT_UP, SINK_UP, SINK_SENT, SINK_BEHIND, VOLUME_CPU, VOLUME_MEMORY,
    BUILD, CPU, MEMORY, DESCRIPTORS, START,
)  # fmt: skip


class Samples:
    """All values at one moment.

    Attributes:
        daemon_started_ns: start of the daemon, in nanoseconds since 1970.
        started_ns: volume -> since when its counters count, in the same.
    """

    def __init__(self, daemon_started_ns: int) -> None:
        self.daemon_started_ns = daemon_started_ns
        self.started_ns: dict[str, int] = {}
        self._samples: dict[Metric, list[Sample]] = {metric: [] for metric in METRICS}

    def add(self, metric: Metric, value: Value, *labels: str) -> None:
        """Add a value; labels in the order of the metric's."""
        self._samples[metric].append((labels, value))

    def families(self) -> Iterator[tuple[Metric, list[Sample]]]:
        """Yield the metrics that have values, in the order of METRICS."""
        return ((metric, samples) for metric, samples in self._samples.items() if samples)
