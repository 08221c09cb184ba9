"""The volume plugin in this process: its requests, its answers, its connections."""

import json
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusevol.errors import FusevolError, UsageError
from fusevol.mounts.visibility import Asker
from fusevol.options.volume_words import KNOWN
from fusevol.plugin import docker
from fusevol.server import http_server
from fusevol.server.control import VolumeState
from fusevol.server.http_server import HttpRequest
from fusevol.server.settings import Settings
from fusevol.server.volume_options import parse
from fusevol.server.volumes import Volumes
from tests.patience import PATIENCE_S
from tests.plugin_client import Connection, Plugin, request
from tests.served import wait_until

T = TypeVar("T")

CALLS = (
    "Plugin.Activate", "VolumeDriver.Capabilities", "VolumeDriver.Create", "VolumeDriver.Get",
    "VolumeDriver.List", "VolumeDriver.Mount", "VolumeDriver.Path", "VolumeDriver.Remove",
    "VolumeDriver.Unmount",
)  # fmt: skip


class Mounting(Volumes):
    """Volumes whose mounts take as long as a test wants.

    Attributes:
        may_mount: what a mount waits for.
        mounts: how many have begun.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(Settings(), nursery)
        self.may_mount = trio.Event()
        self.may_mount.set()
        self.mounts = 0

    async def mount(self, name: str, holder: str, pid: int = 0) -> VolumeState:
        volume = self._find(name)
        self.mounts += 1
        volume.refer(holder, pid)
        try:
            await self.may_mount.wait()
        except BaseException:
            volume.unrefer(holder)
            raise
        return volume.state()


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not tmp_path: the path of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="fv-plugin-") as path:
        for name in ("state", "runtime", "log"):
            monkeypatch.setenv(f"FUSEVOL_{name.upper()}_DIRECTORY", f"{path}/{name}")
        # No machine fails here, and a disk at work takes its time for each of many volumes.
        monkeypatch.setattr(os, "fsync", lambda _fd: None)
        yield Path(path)


@pytest.fixture
async def volumes(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mounting]:
    # There is nothing to be seen; tests/engines/test_visibility.py has real mounts.
    monkeypatch.setattr(Asker, "why_not_seen", lambda _asker, _mountpoint: "")
    async with trio.open_nursery() as nursery:
        volumes = Mounting(nursery)
        await volumes.create("data", {})
        yield volumes
        nursery.cancel_scope.cancel()


@pytest.fixture
async def plugin(volumes: Mounting, directory: Path) -> AsyncIterator[Plugin]:
    path = directory / "plugins/fusevol.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(docker.serve, volumes, str(path))
        yield Plugin(path)
        nursery.cancel_scope.cancel()


async def aside(function: Callable[[], T]) -> T:
    """Run what an engine does in a thread: the plugin runs in this one."""
    return await trio.to_thread.run_sync(function, abandon_on_cancel=True)


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # there is nothing to wait for
            await trio.sleep(0.005)


# Options.


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ({}, {}),
        ({"source": "/a", "record": "data"}, {"source": "/a", "record": "data"}),
        ({"type": "none", "o": "bind", "device": "/a"}, {"device": "/a"}),
        ({"type": "none", "o": "bind,ro", "device": "/a"}, {"device": "/a", "ro": "true"}),
        ({"type": "fusevol", "o": "rw,record=data,log=/l"}, {"record": "data", "log": "/l"}),
        ({"type": "bind", "o": "rbind,"}, {}),
        ({"o": "x=y=z"}, {"x": "y=z"}),
    ],
)
def test_what_compose_files_say_to_the_driver_local_is_understood(
    words: dict[str, str], meant: dict[str, str]
) -> None:
    assert docker.options(words) == meant


def test_what_fusevol_cannot_do_is_not_ignored() -> None:
    with pytest.raises(UsageError, match="type=nfs: use fusevol, none, bind"):
        docker.options({"type": "nfs", "o": "addr=1.2.3.4", "device": ":/x"})
    with pytest.raises(UsageError, match="ro is given twice"):
        docker.options({"ro": "true", "o": "ro"})
    with pytest.raises(UsageError, match="unknown volume option 'size'; known are source"):
        parse(docker.options({"o": "size=1g"}))


WORDS = st.dictionaries(
    st.sampled_from((*KNOWN, "type", "o", "device", "size")) | st.text(max_size=8),
    st.sampled_from(("", "true", "none", "bind", "/srv/a", "ro,record=data", "all")) | st.text(),
    max_size=5,
)


@settings(deadline=None)
@given(WORDS)
def test_options_are_understood_or_refused(words: Mapping[str, str]) -> None:
    try:
        parse(docker.options(words))
    except FusevolError:
        pass


# Requests. The driver is asked without a connection, which is fast enough for many.


async def asked(volumes: Volumes, call: str, body: bytes) -> tuple[int, dict[str, Any]]:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        request = HttpRequest("POST", f"/{call}", {}, body, ours)
        answer = await docker.Driver(volumes).answer(request)
    return answer.status, json.loads(answer.body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
SAID = st.dictionaries(
    st.sampled_from(("Name", "ID", "Opts", "name")), JSON | st.just("data"), max_size=4
).map(lambda said: json.dumps(said).encode())


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(call=st.sampled_from(CALLS), body=SAID | st.binary() | JSON.map(json.dumps).map(str.encode))
def test_any_request_is_answered_and_one_refused_changes_nothing(
    directory: Path, call: str, body: bytes
) -> None:
    async def run() -> None:
        async with trio.open_nursery() as nursery:
            volumes = Mounting(nursery)
            await volumes.create("data", {"record": "data"})
            await volumes.create("held", {})
            await volumes.mount("held", "one")
            before = volumes.all()
            status, answer = await asked(volumes, call, body)
            assert status in (200, 400, 500), answer
            if status != 200:
                assert answer["Err"]
                assert "unexpected" not in answer["Err"]
                assert volumes.all() == before
            nursery.cancel_scope.cancel()

    trio.run(run)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"{}", b"[]", b"null", b"5", b'"data"', b'{"Name":5}', b'{"Name":null}',
        b'{"Name":["data"]}', b"\xff\xfe", b'{"Name":"\xff"}', b'{"Name":"\\ud800"}',
        b'{"Name":"data"} {"Name":"data"}', b'{"name":"data"}', b'{"Name":"data","Name":5}',
        b"[" * 100_000, b'{"Name":"data","more":' + b"[" * 100_000,
    ],
)  # fmt: skip
async def test_a_request_that_cannot_be_meant(volumes: Mounting, body: bytes) -> None:
    for call in CALLS:
        if call.split(".")[1] in ("Activate", "Capabilities", "List"):
            assert (await asked(volumes, call, body))[0] == 200
            continue
        status, answer = await asked(volumes, call, body)
        assert status == 400
        assert answer["Err"].startswith("invalid request: ")
    assert [state.references for state in volumes.all()] == [{}]


@pytest.mark.parametrize("opts", [[], 5, "ro", {"ro": True}, {"ro": None}, {"ro": ["true"]}])
async def test_options_are_strings(volumes: Mounting, opts: object) -> None:
    body = json.dumps({"Name": "new", "Opts": opts}).encode()
    assert (await asked(volumes, "VolumeDriver.Create", body))[0] == 400
    assert [state.name for state in volumes.all()] == ["data"]


@pytest.mark.parametrize("name", ["", "..", "../x", "/x", "a/b", "a\0b", ".a", "a\n", "x" * 300])
async def test_names(volumes: Mounting, name: str) -> None:
    body = json.dumps({"Name": name}).encode()
    for call in ("Create", "Get", "Path", "Mount", "Unmount", "Remove"):
        status, answer = await asked(volumes, f"VolumeDriver.{call}", body)
        assert status == 500
        assert "volume" in answer["Err"]
    assert [state.name for state in volumes.all()] == ["data"]


async def test_an_error_of_ours_stays_with_us(
    volumes: Mounting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_name: str) -> VolumeState:
        raise KeyError("secret")

    monkeypatch.setattr(volumes, "get", fails)
    status, answer = await asked(volumes, "VolumeDriver.Get", b'{"Name":"data"}')
    assert (status, "secret" in answer["Err"]) == (500, False)
    assert "secret" in caplog.text


async def test_paths_that_are_no_utf8_are_shown(volumes: Mounting, directory: Path) -> None:
    source = os.fsdecode(os.fsencode(directory) + b"/\xff")
    os.mkdir(source)
    await volumes.create("odd", {"source": source})
    _status, answer = await asked(volumes, "VolumeDriver.Get", b'{"Name":"odd"}')
    assert answer["Volume"]["Status"]["source"] == f"{directory}/\ufffd"


# Connections.


async def test_what_is_not_of_the_protocol(plugin: Plugin) -> None:
    def run() -> None:
        for call in ("", "VolumeDriver.Nothing", "VolumeDriver.Get/", "x" * 5000):
            assert plugin.ask(call, {"Name": "data"}).status == 404
            assert plugin.ask(call, {"Name": "data"}).error
        for method in ("GET", "PUT", "DELETE"):
            answer = plugin.ask("VolumeDriver.Get", {"Name": "data"}, method=method)
            assert answer.status == 405
            assert answer.error

    await aside(run)


@pytest.mark.parametrize(
    "header",
    [
        "Content-Type: text/plain", "Content-Type: ;;;", "Accept: image/png", "Host: elsewhere",
        "Accept: application/vnd.docker.plugins.v1.2+json",
    ],
)  # fmt: skip
async def test_headers_do_not_matter(plugin: Plugin, header: str) -> None:
    answer = await aside(lambda: plugin.ask("VolumeDriver.Get", {"Name": "data"}, header))
    assert answer.status == 200
    assert answer.headers["content-type"] == docker.CONTENT_TYPE
    assert "server" not in answer.headers


async def test_who_asks_whether_to_send_a_body_is_told_to(plugin: Plugin) -> None:
    def run() -> None:
        whole = request("VolumeDriver.Get", {"Name": "data"}, "Expect: 100-continue")
        head, _, body = whole.partition(b"\r\n\r\n")
        with Connection(plugin.path) as connection:
            connection.send(head + b"\r\n\r\n")
            assert connection.socket.recv(100).startswith(b"HTTP/1.1 100 ")
            connection.send(body)
            assert connection.receive().status == 200

    await aside(run)


async def test_a_connection_is_good_for_many_requests(plugin: Plugin) -> None:
    def run() -> None:
        with Connection(plugin.path) as connection:
            for _ in range(50):
                assert connection.ask("Plugin.Activate").status == 200
                assert connection.ask("VolumeDriver.List", {}).status == 200
                # Neither an error nor a body that nobody wants ends it.
                assert connection.ask("VolumeDriver.Get", {"Name": "none"}).status == 500
                assert connection.ask("VolumeDriver.Get", b"").status == 400
                assert connection.ask("VolumeDriver.None", {}).status == 404
                assert connection.ask("Plugin.Activate", b"x" * 200_000).status == 200
            connection.send(request("Plugin.Activate") * 2)
            assert (connection.receive().status, connection.receive().status) == (200, 200)

    await aside(run)


async def test_bodies_in_parts(plugin: Plugin) -> None:
    def run() -> None:
        parts = b"1\r\n{\r\n" * 3000 + b"0\r\n\r\n"
        with Connection(plugin.path) as connection:
            for call, status in (("Plugin.Activate", 200), ("VolumeDriver.Get", 400)):
                answer = connection.ask(call, parts, "Transfer-Encoding: chunked")
                assert answer.status == status

    await aside(run)


async def test_a_request_that_is_too_long(plugin: Plugin) -> None:
    def run() -> None:
        body = b'{"Name":"data","more":"%s"}' % (b"x" * (5 << 20))
        with Connection(plugin.path) as connection:
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                connection.send(request("VolumeDriver.Get", body))
            assert connection.receive().status == 413

    await aside(run)


async def test_a_request_that_breaks_off(plugin: Plugin, volumes: Mounting) -> None:
    whole = request("VolumeDriver.Create", {"Name": "new", "Opts": {}})

    def run() -> None:
        for length in range(0, len(whole), 7):
            with Connection(plugin.path) as connection:
                connection.send(whole[:length])
                if length % 2:
                    connection.say_no_more()
                    said = connection.rest()
                    assert said == b"" or said.startswith(b"HTTP/1.1 400 "), said
                    assert b"Traceback" not in said
        assert plugin.ask("Plugin.Activate").status == 200

    await aside(run)
    assert [state.name for state in volumes.all()] == ["data"]


async def test_who_sends_no_more_is_answered(plugin: Plugin, volumes: Mounting) -> None:
    def run() -> None:
        with Connection(plugin.path) as connection:
            connection.send(request("VolumeDriver.Mount", {"Name": "data", "ID": "one"}))
            connection.say_no_more()
            assert connection.receive().status == 200
            assert connection.rest() == b""

    await aside(run)
    assert volumes.get("data").references == {"one": 1}


GARBAGE = (
    b"\0" * 1000, b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"POST /Plugin.Activate HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /Plugin.Activate HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST /Plugin.Activate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /Plugin.Activate HTTP/1.1\r\n" + b"X: y\r\n" * 10_000,
    request("Plugin.Activate", b"\xff", "Connection: Upgrade", "Upgrade: websocket", method="GET"),
    request("", b"", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: !!!"),
    b"POST /%ff%00 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"POST http://[/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"POST /a?%zz HTTP/1.1\r\nHost: \xff\r\nContent-Length: 0\r\n\r\n",
    b"HEAD /Plugin.Activate HTTP/1.0\r\n\r\n",
)  # fmt: skip


@pytest.mark.parametrize("data", GARBAGE)
async def test_what_is_no_request_harms_nobody_else(
    plugin: Plugin, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def run() -> None:
        for is_polite in (False, True):
            with Connection(plugin.path) as connection:
                try:
                    connection.send(data)
                    if is_polite:
                        connection.say_no_more()
                        said = connection.rest()
                        assert said == b"" or said.startswith(b"HTTP/1.1 4"), said
                        assert b"Traceback" not in said
                except (BrokenPipeError, ConnectionResetError):
                    pass
            assert plugin.ask("Plugin.Activate").status == 200

    await aside(run)
    assert caplog.text == ""


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.sampled_from(GARBAGE) | st.binary(max_size=30) | st.sampled_from((
            b"POST ", b"/Plugin.Activate", b" HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n",
            b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n",
            b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"Connection: Upgrade\r\n",
            b"Upgrade: h2c\r\n", request("Plugin.Activate"), request("VolumeDriver.Get", {}),
        )),
        max_size=8,
    )
)  # fmt: skip
async def test_any_bytes_harm_nobody(
    volumes: Mounting, directory: Path, caplog: pytest.LogCaptureFixture, parts: list[bytes]
) -> None:
    path = directory / "fusevol.sock"

    def run() -> None:
        with Connection(path) as connection:
            try:
                for part in parts:
                    connection.send(part)
                connection.say_no_more()
                assert b"Traceback" not in connection.rest()
            except (BrokenPipeError, ConnectionResetError):
                pass
        assert Plugin(path).ask("Plugin.Activate").status == 200

    async with trio.open_nursery() as nursery:
        await nursery.start(docker.serve, volumes, str(path))
        await aside(run)
        nursery.cancel_scope.cancel()
    assert not path.exists()
    assert "broke" not in caplog.text
    assert "Traceback" not in caplog.text
    assert [state.name for state in volumes.all()] == ["data"]


async def test_silent_clients_hold_up_nobody_and_are_hung_up_on(
    volumes: Mounting, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "IDLE_S", 0.3)
    monkeypatch.setattr(http_server, "BODY_S", 0.4)
    path = directory / "fusevol.sock"

    half = request("VolumeDriver.Create", {"Name": "new"})[:-3]

    def run() -> None:
        with ExitStack() as stack:
            silent = [stack.enter_context(Connection(path)) for _ in range(19)]
            for number, connection in enumerate(silent):
                connection.send((b"", b"POST /Plug", half)[number % 3])
            assert Plugin(path).ask("Plugin.Activate").status == 200
            for number, connection in enumerate(silent):
                if number % 3 == 2:
                    assert "did not arrive within" in connection.receive().error
                assert connection.rest() == b""
            assert Plugin(path).ask("Plugin.Activate").status == 200

    async with trio.open_nursery() as nursery:
        await nursery.start(docker.serve, volumes, str(path))
        await aside(run)
        nursery.cancel_scope.cancel()
    assert [state.name for state in volumes.all()] == ["data"]


async def test_connections_are_bounded(
    volumes: Mounting, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "CONNECTIONS_MAX", 3)
    path = directory / "fusevol.sock"

    def is_served(connection: Connection) -> bool:
        try:
            connection.send(request("Plugin.Activate"))
            return bool(connection.socket.recv(1))
        except (BrokenPipeError, ConnectionResetError):
            return False

    def run() -> None:
        with ExitStack() as stack:
            *held, last = [stack.enter_context(Connection(path)) for _ in range(3)]
            assert [is_served(connection) for connection in (*held, last)] == [True] * 3
            for _ in range(3):
                assert not is_served(stack.enter_context(Connection(path)))
            last.close()
            wait_until(lambda: is_served(stack.enter_context(Connection(path))), "room")

    async with trio.open_nursery() as nursery:
        await nursery.start(docker.serve, volumes, str(path))
        await aside(run)
        nursery.cancel_scope.cancel()


async def test_an_answer_may_take_longer_than_a_client_may_be_silent(
    volumes: Mounting, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "IDLE_S", 0.1)
    path = directory / "fusevol.sock"
    volumes.may_mount = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(docker.serve, volumes, str(path))
        with Connection(path) as waiting:
            waiting.send(request("VolumeDriver.Mount", {"Name": "data", "ID": "one"}))
            await until(lambda: volumes.mounts)
            # Meanwhile others are answered.
            await aside(lambda: Plugin(path).do("Get", Name="data"))
            await trio.sleep(0.5)
            volumes.may_mount.set()
            assert (await aside(waiting.receive)).status == 200
        nursery.cancel_scope.cancel()
    assert volumes.get("data").references == {"one": 1}


async def test_who_does_not_wait_for_a_mount_holds_nothing(
    plugin: Plugin, volumes: Mounting
) -> None:
    volumes.may_mount = trio.Event()
    await aside(lambda: plugin.do("Create", Name="other"))
    with Connection(plugin.path) as connection:
        connection.send(request("VolumeDriver.Mount", {"Name": "data", "ID": "one"}))
        await until(lambda: volumes.get("data").references == {"one": 1})
    await trio.sleep(0.05)
    volumes.may_mount.set()
    await until(lambda: volumes.get("data").references == {})
    await aside(lambda: plugin.do("Mount", Name="data", ID="one"))
    assert volumes.get("data").references == {"one": 1}


# Beginning and end.


async def test_the_socket_is_private_and_goes_at_the_end(
    volumes: Mounting, directory: Path
) -> None:
    path = directory / "docker/plugins/fusevol.sock"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    async with trio.open_nursery() as nursery:
        await nursery.start(docker.serve, volumes, str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        idle = Connection(path)
        assert (await aside(lambda: idle.ask("Plugin.Activate"))).status == 200
        begun = trio.current_time()
        nursery.cancel_scope.cancel()
    assert not path.exists()
    assert trio.current_time() - begun < http_server.GRACE_S / 2
    assert idle.rest() == b""
    idle.close()


async def test_what_others_have_put_there_stays(volumes: Mounting, directory: Path) -> None:
    path = directory / "fusevol.sock"
    path.write_text("not a socket")
    with pytest.raises(FusevolError, match=r"cannot listen on .*fusevol\.sock"):
        await docker.serve(volumes, str(path))
    path.unlink()
    async with trio.open_nursery() as nursery:
        await nursery.start(docker.serve, volumes, str(path))
        path.unlink()
        with socket.socket(socket.AF_UNIX) as theirs:
            theirs.bind(str(path))
        nursery.cancel_scope.cancel()
    assert path.exists()
    with pytest.raises(FusevolError, match="cannot create"):
        await docker.serve(volumes, f"{path}/below/fusevol.sock")
    with pytest.raises(FusevolError, match="cannot listen on"):
        await docker.serve(volumes, f"{directory}/{'x' * 120}.sock")


async def test_a_socket_that_was_passed_stays(volumes: Mounting, directory: Path) -> None:
    path = directory / "fusevol.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    with listening.dup() as kept:
        async with trio.open_nursery() as nursery:
            await nursery.start(docker.serve, volumes, listening)
            assert (await aside(lambda: Plugin(path).ask("Plugin.Activate"))).status == 200
            nursery.cancel_scope.cancel()
        assert path.exists()
        # Who asks while there is no daemon is answered by the next one.
        with Connection(path) as waiting:
            waiting.send(request("Plugin.Activate"))
            async with trio.open_nursery() as nursery:
                await nursery.start(docker.serve, volumes, kept.dup())
                assert (await aside(waiting.receive)).status == 200
                nursery.cancel_scope.cancel()


async def test_requests_under_way_are_answered_at_the_end(
    volumes: Mounting, directory: Path
) -> None:
    path = directory / "fusevol.sock"
    volumes.may_mount = trio.Event()

    async def let_mount() -> None:
        await trio.sleep(0.2)
        volumes.may_mount.set()

    with ExitStack() as stack:
        async with trio.open_nursery() as later, trio.open_nursery() as nursery:
            await nursery.start(docker.serve, volumes, str(path))
            idle = [stack.enter_context(Connection(path)) for _ in range(3)]
            assert (await aside(lambda: idle[0].ask("Plugin.Activate"))).status == 200
            waiting = [stack.enter_context(Connection(path)) for _ in range(3)]
            for number, connection in enumerate(waiting):
                said = {"Name": "data", "ID": str(number)}
                connection.send(request("VolumeDriver.Mount", said))
            await until(lambda: volumes.mounts == 3)
            later.start_soon(let_mount)
            nursery.cancel_scope.cancel()
        assert [connection.receive().status for connection in waiting] == [200, 200, 200]
        assert [connection.rest() for connection in (*idle, *waiting)] == [b""] * 6
    assert volumes.get("data").references == {"0": 1, "1": 1, "2": 1}


async def test_the_end_waits_for_nobody(
    volumes: Mounting, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "GRACE_S", 0.2)
    path = directory / "fusevol.sock"
    volumes.may_mount = trio.Event()
    for number in range(2000):
        volumes._volumes[f"v{number}"] = volumes._volumes["data"]
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            await nursery.start(docker.serve, volumes, str(path))
            mounting = stack.enter_context(Connection(path))
            mounting.send(request("VolumeDriver.Mount", {"Name": "data", "ID": "one"}))
            unread = stack.enter_context(Connection(path))
            # The answer is more than the kernel keeps for who does not read.
            unread.send(request("VolumeDriver.List"))
            await until(lambda: volumes.mounts)
            await trio.sleep(0.2)
            begun = trio.current_time()
            nursery.cancel_scope.cancel()
        assert 0.2 <= trio.current_time() - begun < 1
        assert mounting.rest() == b""
    assert volumes.get("data").references == {}


async def test_who_takes_no_answer_is_hung_up_on(
    volumes: Mounting, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "BODY_S", 0.2)
    path = directory / "fusevol.sock"
    for number in range(2000):
        volumes._volumes[f"v{number}"] = volumes._volumes["data"]
    async with trio.open_nursery() as nursery:
        await nursery.start(docker.serve, volumes, str(path))
        with Connection(path) as connection:
            connection.send(request("VolumeDriver.List"))
            await aside(connection.await_hang_up)
            with pytest.raises(json.JSONDecodeError):
                connection.receive()
        nursery.cancel_scope.cancel()
