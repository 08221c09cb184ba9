"""The metrics endpoint in this process: who gets what, and who is kept waiting for nobody."""

import gzip
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from fusevol.errors import FusevolError, UsageError
from fusevol.metrics import catalog as metrics
from fusevol.metrics import endpoint
from fusevol.metrics.collector import MetricsCollector
from fusevol.server.control import VolumeState
from fusevol.server.settings import Metrics, Settings
from fusevol.server.volumes import Volumes
from tests.patience import PATIENCE_S
from tests.scraping import parse

T = TypeVar("T")

TOKEN = "secret-of-the-scraper"


class UnixConnection(HTTPConnection):
    """HTTP to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not tmp_path: the path of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="fv-metrics-") as path:
        for name in ("state", "runtime", "log"):
            monkeypatch.setenv(f"FUSEVOL_{name.upper()}_DIRECTORY", f"{path}/{name}")
        yield Path(path)


@pytest.fixture
def token_file(directory: Path) -> Path:
    path = directory / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


@asynccontextmanager
async def serving(metrics: Metrics, passed: socket.socket | None = None) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        volumes = Volumes(Settings(), nursery)
        await volumes.create("data", {})

        async def serve(task_status: trio.TaskStatus[None]) -> None:
            await endpoint.serve(volumes, metrics=metrics, passed=passed, task_status=task_status)

        await nursery.start(serve)
        yield
        nursery.cancel_scope.cancel()


async def aside(run: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(run)


def ask(
    connection: HTTPConnection, path: str = "/metrics", method: str = "GET", **headers: str
) -> tuple[HTTPResponse, bytes]:
    words = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=words)
    response = connection.getresponse()
    return response, response.read()


async def test_a_private_socket_gives_metrics_in_the_form_that_is_asked_for(
    directory: Path,
) -> None:
    path = directory / "metrics.sock"

    def run() -> None:
        assert path.stat().st_mode & 0o777 == 0o600
        connection = UnixConnection(path)
        response, plain = ask(connection)
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert b'\nfusevol_volumes{state="idle"} 1.0\n' in plain
        response, packed = ask(connection, accept_encoding="gzip;q=1.0,identity;q=0.5")
        assert response.headers["Content-Encoding"] == "gzip"
        assert b'\nfusevol_volumes{state="idle"} 1.0\n' in gzip.decompress(packed)
        # As Prometheus asks; versions that are none, as nobody should.
        for accept in (
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=none",
        ):
            response, text = ask(connection, accept=accept)
            assert response.headers["Content-Type"].startswith("application/openmetrics-text; ")
            families = parse(text, openmetrics=True)
            assert families.keys() >= {"fusevol_volumes", "process_cpu_seconds"}
        response, nothing = ask(connection, method="HEAD")
        assert (response.status, nothing) == (200, b"")
        assert int(response.headers["Content-Length"]) == len(plain)
        assert ask(connection, path="/")[0].status == 404
        response, _ = ask(connection, method="POST")
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
        connection.close()

    async with serving(Metrics(listen=f"unix:{path}")):
        await aside(run)
    assert not path.exists()


async def test_who_does_not_know_the_token_gets_nothing(token_file: Path) -> None:
    passed = socket.create_server(("127.0.0.1", 0))
    port = passed.getsockname()[1]

    def run() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        for wrong in ("", TOKEN, f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer é"):
            response, body = ask(connection, authorization=wrong)
            assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert b"fusevol_" not in body
        response, body = ask(connection, authorization=f"Bearer {TOKEN}")
        assert response.status == 200
        assert b"fusevol_build_info" in body
        connection.close()

    async with serving(Metrics(token_file=str(token_file)), passed):
        await aside(run)


async def test_a_socket_for_all_takes_a_token(directory: Path, token_file: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as passed:
        with pytest.raises(ExceptionGroup) as caught:
            async with serving(Metrics(), passed):
                pass
        assert caught.group_contains(UsageError, match="containers and other machines")
        async with serving(Metrics(token_file=str(token_file)), passed):
            pass


@pytest.mark.parametrize(
    ("content", "mode", "wrong"),
    [(None, 0, "cannot be read"), (TOKEN, 0o644, "chmod"), ("\n", 0o600, "is empty")],
)
async def test_a_token_that_is_none_is_refused(
    directory: Path, content: str | None, mode: int, wrong: str
) -> None:
    path = directory / "token"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    metrics = Metrics(listen="127.0.0.1:0", token_file=str(path))
    with pytest.raises(ExceptionGroup) as caught:
        async with serving(metrics):
            pass
    assert caught.group_contains(FusevolError, match=wrong)


async def test_a_port_that_is_taken_is_named(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        where = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ExceptionGroup) as caught:
            async with serving(Metrics(listen=where)):
                pass
    assert caught.group_contains(FusevolError, match=f"cannot listen on {where}.*in use")


async def test_slow_scrapers_are_bounded_and_hold_up_nobody(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    make = endpoint.Endpoint._make

    def counted(*arguments: object) -> object:
        nonlocal made
        made += 1
        return make(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(endpoint.Endpoint, "_make", counted)
    path = directory / "metrics.sock"

    def run() -> None:
        with ExitStack() as stack:
            slow = [UnixConnection(path) for _ in range(endpoint.CONNECTIONS_MAX - 1)]
            for number, connection in enumerate(slow):
                stack.callback(connection.close)
                connection.connect()
                # Some ask and take no answer, some do not even finish asking.
                request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
                connection.sock.sendall(request if number % 2 else request[:20])
            last = UnixConnection(path)
            stack.callback(last.close)
            assert ask(last)[0].status == 200
            beyond = UnixConnection(path)
            stack.callback(beyond.close)
            with pytest.raises(OSError, match=r"reset|Broken|closed connection"):
                ask(beyond)
            assert ask(last)[0].status == 200

    async with serving(Metrics(listen=f"unix:{path}")):
        await aside(run)
    assert made == 1, "all of them were answered by one text"


def test_volumes_are_down_that_failed_and_not_those_that_nobody_uses(directory: Path) -> None:
    states = [
        VolumeState(
            name=name, source="/srv", subpath="", record="all", read_only=False, log="none",
            on_log_failure="continue", created="", anonymous=False, references={}, state=state,
            mountpoint="",
        )
        for name, state in (("a", "failed"), ("b", "idle"))
    ]  # fmt: skip
    (directory / "runtime").mkdir(mode=0o700)
    families = dict(MetricsCollector().collect(states).families())
    assert families[metrics.UP] == [(("a",), 0)]
    assert families[metrics.VOLUMES] == [(("failed",), 1), (("idle",), 1), (("serving",), 0)]
