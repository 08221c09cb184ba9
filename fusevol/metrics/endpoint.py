"""Where Prometheus gets the metrics: `GET /metrics`.

Scraping costs little, however often and slowly: one thread makes a text at a time, for all
requests within a second, and connections are bounded.
"""

import gzip
import hmac
import ipaddress
import logging
import os
import socket
import stat
from typing import Final

import trio

from fusevol.errors import FusevolError, UsageError
from fusevol.metrics import prometheus
from fusevol.metrics.collector import MetricsCollector
from fusevol.server import http_server
from fusevol.server.control import VolumeState
from fusevol.server.http_server import HttpRequest, HttpResponse
from fusevol.server.settings import Address, Metrics
from fusevol.server.volumes import Volumes

logger = logging.getLogger(__name__)

PATH: Final = "/metrics"
CONNECTIONS_MAX: Final = 16
FRESH_S: Final = 1.0
"""How old a text may be that answers the next request."""

_BACKLOG: Final = 16


async def serve(
    volumes: Volumes,
    *,
    metrics: Metrics,
    passed: socket.socket | None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer scrapers until cancelled.

    Args:
        volumes: of the daemon.
        metrics: where to listen, and the token.
        passed: listening socket of the service manager, to be used in place of one of our own.
        task_status: started when connections are accepted.

    Raises:
        FusevolError: the socket cannot be made, or the token not be read.
    """
    token = _token(metrics.token_file)
    where = passed if passed is not None else _listening(metrics.address())
    if isinstance(where, socket.socket) and _is_for_all(where) and not token:
        raise UsageError(
            "containers and other machines can reach the socket for metrics that systemd passed; "
            "configure a metrics.token_file"
        )
    endpoint = Endpoint(volumes, token)
    await http_server.serve(
        endpoint.answer, refused, where,
        name="the metrics endpoint", connections_max=CONNECTIONS_MAX, task_status=task_status,
    )  # fmt: skip


class Endpoint:
    """Answers requests for metrics."""

    def __init__(self, volumes: Volumes, token: str = "") -> None:
        """Prepare.

        Args:
            volumes: of the daemon.
            token: what scrapers have to know; empty for nothing.
        """
        self._volumes = volumes
        self._authorization = f"Bearer {token}".encode() if token else b""
        self._collector = MetricsCollector()
        self._turn = trio.Lock()
        self._made: dict[tuple[bool, bool], tuple[float, HttpResponse]] = {}

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Return the metrics, in the form that is asked for; what goes wrong is in the answer."""
        if not self._is_allowed(request):
            return refused(401, "a bearer token is required")._replace(
                headers=(("WWW-Authenticate", "Bearer"),)
            )
        if request.path != PATH:
            return refused(404, f"metrics are at {PATH}")
        if request.method not in ("GET", "HEAD"):
            return refused(405, f"use GET for {PATH}")._replace(headers=(("Allow", "GET, HEAD"),))
        form = (
            prometheus.OPENMETRICS in request.headers.get("accept", ""),
            "gzip" in request.headers.get("accept-encoding", ""),
        )
        try:
            async with self._turn:
                return await self._fresh(form)
        except Exception:
            logger.exception("the metrics could not be read")
            return refused(500, "unexpected error; see the messages of fusevol serve")

    def _is_allowed(self, request: HttpRequest) -> bool:
        given = request.headers.get("authorization", "").encode()
        return not self._authorization or hmac.compare_digest(given, self._authorization)

    async def _fresh(self, form: tuple[bool, bool]) -> HttpResponse:
        """Return a text that is at most FRESH_S old."""
        last = self._made.get(form)
        if last is not None and trio.current_time() - last[0] < FRESH_S:
            return last[1]
        states = self._volumes.all()
        begun = trio.current_time()
        answer = await trio.to_thread.run_sync(self._make, states, *form)
        self._made[form] = (begun, answer)
        return answer

    def _make(self, states: list[VolumeState], openmetrics: bool, compressed: bool) -> HttpResponse:
        reading = self._collector.collect(states)
        text, kind = prometheus.render(reading, openmetrics=openmetrics)
        vary = ("Vary", "Accept, Accept-Encoding")
        if not compressed:
            return HttpResponse(200, text, kind, (vary,))
        packed = gzip.compress(text, compresslevel=1)
        return HttpResponse(200, packed, kind, (vary, ("Content-Encoding", "gzip")))


def refused(status: int, text: str) -> HttpResponse:
    """Return the answer to a request that gets no metrics."""
    return HttpResponse(status, f"{text}\n".encode(), "text/plain; charset=utf-8")


def _listening(address: Address) -> str | socket.socket:
    if isinstance(address, str):
        return address
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        where = "{}:{}".format(*address)
        raise FusevolError(f"cannot listen on {where} for metrics: {error.strerror}") from None


def _is_for_all(listening: socket.socket) -> bool:
    """Return whether other machines, or containers with a network of their own, can connect."""
    return (
        listening.family != socket.AF_UNIX
        and not ipaddress.ip_address(listening.getsockname()[0]).is_loopback
    )


def _token(path: str) -> str:
    if not path:
        return ""
    try:
        with open(path, encoding="ascii") as file:
            is_for_all = os.fstat(file.fileno()).st_mode & stat.S_IROTH
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FusevolError(f"metrics.token_file {path} cannot be read: {error}") from None
    if is_for_all:
        raise FusevolError(f"metrics.token_file {path} is readable by everybody; chmod o-r it")
    if not token:
        raise FusevolError(f"metrics.token_file {path} is empty")
    return token
