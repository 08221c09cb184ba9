"""Sending the metrics by OpenTelemetry's protocol, as protobuf over HTTP (OTLP/HTTP).

A thread of its own reads and sends them. A collector that is down or slow costs nothing but the
values of that time; counters keep counting, and are sent the next time.

Headers, certificates and compression are taken from OTEL_EXPORTER_OTLP_*, further attributes of the
resource from OTEL_RESOURCE_ATTRIBUTES, as the specification has it.
"""

import logging
import socket
import time
from typing import TYPE_CHECKING, Any, Final, Never

import trio

from fusevol import __version__
from fusevol.errors import UnsupportedError
from fusevol.metrics.catalog import BOUNDS_S, Histogram, Metric, MetricKind, Sample, Samples
from fusevol.metrics.collector import MetricsCollector
from fusevol.server.control import VolumeState
from fusevol.server.settings import Metrics
from fusevol.server.volumes import Volumes

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import export as otel
    from opentelemetry.sdk.resources import Resource

logger = logging.getLogger(__name__)

_TIMEOUT_S: Final = 10.0
_SCOPE: Final = "fusevol"


async def push(
    volumes: Volumes,
    *,
    metrics: Metrics,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> Never:
    """Send all metrics again and again, until cancelled.

    Args:
        volumes: of the daemon.
        metrics: where to send them, and how often.
        task_status: started when the first ones are about to be sent.

    Raises:
        UnsupportedError: OpenTelemetry's SDK is not installed.
    """
    thread = trio.CapacityLimiter(1)
    sender = await trio.to_thread.run_sync(Sender, metrics.otlp, limiter=thread)
    task_status.started()
    while True:
        next_at = trio.current_time() + metrics.interval
        await trio.to_thread.run_sync(
            sender.send, volumes.all(), limiter=thread, abandon_on_cancel=True
        )
        await trio.sleep_until(next_at)


class Sender:
    """Sends readings to one collector; for one thread at a time."""

    def __init__(self, url: str) -> None:
        """Prepare; nothing is connected.

        Args:
            url: of the collector, to which the path of the protocol is added.

        Raises:
            UnsupportedError: OpenTelemetry's SDK is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.sdk.resources import Resource
        except ImportError as error:
            raise UnsupportedError(
                f"metrics.otlp requires OpenTelemetry's SDK ({error}); pip install 'fusevol[otel]'"
            ) from None
        # It would report each try; we report the first failure and the recovery.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._url = url
        self._exporter = OTLPMetricExporter(f"{url.rstrip('/')}/v1/metrics", timeout=_TIMEOUT_S)
        self._resource = Resource.create(
            {
                "service.name": "fusevol",
                "service.version": __version__,
                "service.instance.id": socket.gethostname(),
                "host.name": socket.gethostname(),
            }
        )
        self._collector = MetricsCollector()
        self._is_failing = False

    def send(self, volumes: list[VolumeState]) -> None:
        """Send what is known now; what goes wrong is logged, once until it works again."""
        try:
            reading = self._collector.collect(volumes)
            result = self._exporter.export(as_otel(reading, self._resource, time.time_ns()))
            failed = result.name != "SUCCESS"
        except Exception:
            logger.exception("metrics could not be read or sent to %s", self._url)
            return
        if failed and not self._is_failing:
            logger.warning("%s does not accept metrics; retrying until it does", self._url)
        elif self._is_failing and not failed:
            logger.warning("%s accepts metrics again", self._url)
        self._is_failing = failed


def as_otel(reading: Samples, resource: "Resource", now_ns: int) -> "otel.MetricsData":
    """Return a reading as OpenTelemetry has it.

    Args:
        resource: what it is about.
        now_ns: when it was read, in nanoseconds since 1970.
    """
    from opentelemetry.sdk.metrics import export as otel
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    scope = otel.ScopeMetrics(
        scope=InstrumentationScope(_SCOPE, __version__),
        metrics=[
            otel.Metric(
                name=metric.otel_name, description=metric.text, unit=metric.unit,
                data=_data(metric, samples, reading, now_ns),
            )
            for metric, samples in reading.families()
        ],
        schema_url="",
    )  # fmt: skip
    return otel.MetricsData([otel.ResourceMetrics(resource, [scope], schema_url="")])


def _data(metric: Metric, samples: list[Sample], reading: Samples, now_ns: int) -> "otel.DataT":
    from opentelemetry.sdk.metrics import export as otel

    points: list[Any] = [_point(metric, sample, reading, now_ns) for sample in samples]
    cumulative = otel.AggregationTemporality.CUMULATIVE
    if metric.kind is MetricKind.HISTOGRAM:
        return otel.Histogram(points, cumulative)
    if metric.kind is MetricKind.COUNTER:
        return otel.Sum(points, cumulative, is_monotonic=True)
    return otel.Gauge(points)


def _point(
    metric: Metric, sample: Sample, reading: Samples, now_ns: int
) -> "otel.NumberDataPoint | otel.HistogramDataPoint":
    from opentelemetry.sdk.metrics import export as otel

    labels, value = sample
    attributes = dict(zip(metric.labels, labels, strict=True))
    volume = attributes.get("volume", "")
    started_ns = reading.started_ns.get(volume, reading.daemon_started_ns)
    if not isinstance(value, Histogram):
        return otel.NumberDataPoint(attributes, started_ns, now_ns, value)
    return otel.HistogramDataPoint(
        attributes, started_ns, now_ns, count=sum(value.counts), sum=value.total,
        bucket_counts=value.counts, explicit_bounds=BOUNDS_S,
        # The protocol can do without these, which are not known.
        min=None, max=None,  # type: ignore[arg-type]
    )  # fmt: skip
