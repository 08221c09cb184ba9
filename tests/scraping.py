"""Reading metrics as a scraper does."""

import time
from http.client import HTTPConnection

from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from fusevol.metrics.endpoint import FRESH_S
from tests.patience import PATIENCE_S


def parse(text: bytes, *, openmetrics: bool = False) -> dict[str, Metric]:
    """Return the families of a text by their names; ValueError if it is not well-formed."""
    if openmetrics:
        families = openmetrics_parser.text_string_to_metric_families(  # type: ignore[no-untyped-call]
            text.decode()
        )
    else:
        families = text_string_to_metric_families(text.decode())
    return {family.name: family for family in families}


class Scrape:
    """The values of one moment."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in parse(text).values()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """Return one value; 0 if there is none."""
        return self._values.get((name, frozenset(labels.items())), 0)

    def has(self, name: str, **labels: str) -> bool:
        """Tell whether there is such a value."""
        return (name, frozenset(labels.items())) in self._values

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Return the values that have these labels and one more, by this one."""
        wanted = labels.items()
        found = {}
        for (sample, pairs), value in self._values.items():
            others = dict(pairs)
            by = others.pop(label, None)
            if sample == name and by is not None and others.items() == wanted:
                found[by] = value
        return found

    def labels(self) -> dict[str, set[str]]:
        """Return the labels that each name has."""
        found: dict[str, set[str]] = {}
        for name, pairs in self._values:
            found.setdefault(name, set()).update(label for label, _ in pairs)
        return found

    def fallen(self, later: "Scrape") -> list[str]:
        """Return the names of counters that have less `later`, or are missing."""
        return [
            name
            for (name, labels), value in self._values.items()
            if name.endswith(("_total", "_count", "_sum", "_bucket"))
            and later._values.get((name, labels), -1) < value
        ]


class Scraper:
    """Scrapes one endpoint.

    Attributes:
        port: on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._last = 0.0

    def get(self, accept: str = "") -> bytes:
        """Return a text that is not older than this call."""
        time.sleep(max(0.0, self._last + FRESH_S - time.monotonic()))
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request("GET", "/metrics", headers={"Accept": accept} if accept else {})
            response = connection.getresponse()
            text = response.read()
            assert response.status == 200, text
            self._last = time.monotonic()
        finally:
            connection.close()
        return text

    def scrape(self) -> Scrape:
        """Return the values now."""
        return Scrape(self.get())
