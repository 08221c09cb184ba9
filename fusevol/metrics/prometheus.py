"""Metrics as Prometheus reads them: its text format 0.0.4, or OpenMetrics 1.0."""

from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import core
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from fusevol.metrics.catalog import BOUNDS_S, Histogram, Metric, MetricKind, Sample, Samples

OPENMETRICS: Final = "application/openmetrics-text"

_UNITS: Final = {"s": "seconds", "By": "bytes"}
_BOUNDS: Final = (*map(repr, BOUNDS_S), "+Inf")


def render(reading: Samples, *, openmetrics: bool) -> tuple[bytes, str]:
    """Return a reading as a text, and the text's content type."""
    # What a client accepts is not passed on: the library fails if a version in it is not a number.
    encode, content_type = choose_encoder(OPENMETRICS if openmetrics else "")
    return encode(_Families(reading)), content_type


class _Families(Collector):
    """A reading as the library has it."""

    def __init__(self, reading: Samples) -> None:
        self._reading = reading

    def collect(self) -> Iterator[core.Metric]:
        for metric, samples in self._reading.families():
            yield _family(metric, samples)


def _family(metric: Metric, samples: list[Sample]) -> core.Metric:
    unit = _UNITS.get(metric.unit, "")
    if metric.kind is MetricKind.HISTOGRAM:
        histogram = core.HistogramMetricFamily(
            metric.name, metric.text, labels=metric.labels, unit=unit
        )
        for labels, value in samples:
            assert isinstance(value, Histogram)
            buckets = list(zip(_BOUNDS, accumulate(value.counts), strict=True))
            histogram.add_metric(labels, buckets, value.total)
        return histogram
    kind = core.CounterMetricFamily if metric.kind is MetricKind.COUNTER else core.GaugeMetricFamily
    family = kind(metric.name, metric.text, labels=metric.labels, unit=unit)
    for labels, value in samples:
        assert not isinstance(value, Histogram)
        family.add_metric(labels, value)
    return family
