"""A collector that takes OTLP over HTTP and decodes what it gets."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)


class Receiver(ThreadingHTTPServer):
    """The collector.

    Attributes:
        status: what it answers with.
        requests: what it was sent, if that was well-formed.
        headers: those of the last request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.requests: list[ExportMetricsServiceRequest] = []
        self.refused = 0
        self.headers: dict[str, str] = {}

    @property
    def url(self) -> str:
        """What is configured as `otlp`."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of the newest request by their names."""
        [resource] = self.requests[-1].resource_metrics
        [scope] = resource.scope_metrics
        assert scope.scope.name == "fusevol"
        return {metric.name: metric for metric in scope.metrics}

    def resource(self) -> dict[str, str]:
        """Return what the newest request says of its sender."""
        [resource] = self.requests[-1].resource_metrics
        return {one.key: one.value.string_value for one in resource.resource.attributes}


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"
    _TYPE: ClassVar = "application/x-protobuf"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/metrics"
        assert self.headers["Content-Type"] == self._TYPE
        if self.server.status == 200:
            self.server.headers = {name.lower(): text for name, text in self.headers.items()}
            self.server.requests.append(ExportMetricsServiceRequest.FromString(body))
        else:
            self.server.refused += 1
        self.send_response(self.server.status)
        self.send_header("Content-Type", self._TYPE)
        answer = ExportMetricsServiceResponse().SerializeToString()
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A collector inside the block."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def attributes(point: Any) -> dict[str, str]:
    """Return the attributes of a data point."""
    return {one.key: one.value.string_value for one in point.attributes}
