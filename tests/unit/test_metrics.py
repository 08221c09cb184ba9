"""The metrics: their names, histograms, and texts, whatever a volume is called."""

import re

from hypothesis import given
from hypothesis import strategies as st

from fusevol.metrics import catalog
from fusevol.metrics.catalog import BOUNDS_S, METRICS, Histogram, MetricKind, Samples
from fusevol.metrics.prometheus import render
from fusevol.recovery.counters import BUCKETS
from tests.scraping import parse

times = st.lists(st.integers(0, 1 << 34), max_size=30)
names = st.text(st.characters(codec="utf-8"), max_size=20)


@given(times)
def test_a_histogram_counts_each_time_below_the_bounds_that_it_is_below(taken: list[int]) -> None:
    buckets = [0] * BUCKETS
    for us in taken:
        buckets[min(us.bit_length(), BUCKETS - 1)] += 1
    histogram = Histogram.of(tuple(buckets), sum(taken))
    assert len(histogram.counts) == len(BOUNDS_S) + 1
    for place, bound in enumerate(BOUNDS_S):
        below = sum(us < round(bound * 1e6) for us in taken)
        assert sum(histogram.counts[: place + 1]) == below
    assert sum(histogram.counts) == len(taken)
    assert histogram.total == sum(taken) / 1e6


@given(names, st.integers(0, 1 << 53), times)
def test_what_is_rendered_is_read_back(volume: str, value: int, taken: list[int]) -> None:
    reading = Samples(0)
    reading.add(catalog.READ, value, volume)
    reading.add(catalog.SINK_UP, 0, "unix:/a b", volume)
    counts = (*taken, *[0] * (len(BOUNDS_S) + 1))[: len(BOUNDS_S) + 1]
    reading.add(catalog.DURATION, Histogram(counts, 0.5), "read", volume)
    for openmetrics in (False, True):
        text, _ = render(reading, openmetrics=openmetrics)
        families = parse(text, openmetrics=openmetrics)
        read = families["fusevol_read_bytes"]
        assert read.type == "counter"
        assert [tuple(sample[:3]) for sample in read.samples] == [
            ("fusevol_read_bytes_total", {"volume": volume}, value)
        ]
        [sink] = families["fusevol_log_sink_up"].samples
        assert sink.labels == {"sink": "unix:/a b", "volume": volume}
        duration = families["fusevol_operation_duration_seconds"].samples
        by_name = {(s.name.rpartition("_")[2], s.labels.get("le")): s for s in duration}
        assert by_name["count", None].value == by_name["bucket", "+Inf"].value == sum(counts)
        assert by_name["sum", None].value == 0.5
        assert by_name["bucket", "0.065536"].labels["volume"] == volume


def test_names_and_labels_follow_the_conventions() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert set(METRICS) == {
        one for one in vars(catalog).values() if isinstance(one, catalog.Metric)
    }
    for metric in METRICS:
        assert re.fullmatch(r"(fusevol|process)(_[a-z]+)+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER)
        assert metric.labels == tuple(sorted(metric.labels))
        assert metric.text.endswith(".")
        unit = {"s": "_seconds", "By": "_bytes"}.get(metric.unit, "")
        assert unit in metric.name


def test_opentelemetrys_rules_lead_from_its_names_back_to_prometheus() -> None:
    units = {"s": "_seconds", "By": "_bytes"}
    for metric in METRICS:
        if metric.semantic_name:
            continue
        name = metric.otel_name.replace(".", "_") + units.get(metric.unit, "")
        assert name + "_total" * (metric.kind is MetricKind.COUNTER) == metric.name
