"""The volume plugin of a real `fusevol serve`, asked as Docker and Podman ask."""

import os
import secrets
import signal
import socket
import stat
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusevol.options.volume_words import KNOWN
from tests.engines.daemon import PLUGIN_SOCKET, Daemon
from tests.plugin_client import PODMAN_ID, Connection, Plugin, request
from tests.served import kill_for_good, needs_root, serve, wait_until
from tests.turns import ONE_PLUGIN

pytestmark = [needs_root, ONE_PLUGIN]

PODMAN_S = 5.0
"""How long Podman waits for any answer (volume_plugin_timeout in containers.conf(5))."""


@pytest.fixture
def plugin(daemon: Daemon) -> Iterator[Plugin]:
    plugin = Plugin(PLUGIN_SOCKET)
    yield plugin
    for volume in plugin.do("List")["Volumes"]:
        daemon.cli("volume", "release", volume["Name"], "--force")
        plugin.do("Remove", Name=volume["Name"])
    assert "Traceback" not in daemon.messages()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("content\n")
    return source


@pytest.fixture
def data(plugin: Plugin, source: Path) -> str:
    """A volume."""
    plugin.do("Create", Name="data", Opts={"source": str(source)})
    return "data"


def names(plugin: Plugin) -> list[str]:
    return [volume["Name"] for volume in plugin.do("List")["Volumes"]]


def status(plugin: Plugin, name: str) -> dict[str, Any]:
    return dict(plugin.do("Get", Name=name)["Volume"]["Status"])


def test_the_handshake_takes_an_empty_body(plugin: Plugin) -> None:
    answer = plugin.ask("Plugin.Activate")
    assert (answer.status, answer.body) == (200, {"Implements": ["VolumeDriver"]})
    assert plugin.do("Capabilities") == {"Capabilities": {"Scope": "local"}}
    assert plugin.ask("VolumeDriver.List").body == {"Volumes": [], "Err": ""}


def test_the_socket_is_for_root(plugin: Plugin) -> None:
    assert stat.S_IMODE(PLUGIN_SOCKET.stat().st_mode) == 0o600


@pytest.mark.parametrize("header", ["Content-Type: text/plain", "Content-Type: a/b; c=;", "X: y"])
def test_content_type_and_accept_do_not_matter(plugin: Plugin, data: str, header: str) -> None:
    accept = "Accept: application/vnd.docker.plugins.v1.2+json"
    answer = plugin.ask("VolumeDriver.Get", {"Name": data}, header, accept)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/vnd.docker.plugins.v1.1+json"
    assert "server" not in answer.headers


def test_a_volume_from_its_first_to_its_last_call(plugin: Plugin, source: Path) -> None:
    with Connection(PLUGIN_SOCKET) as connection:

        def ask(call: str, **said: object) -> dict[str, Any]:
            answer = connection.ask(f"VolumeDriver.{call}", said)
            assert answer.status == 200, answer
            return answer.body

        assert connection.ask("VolumeDriver.Get", {"Name": "data"}).status == 500
        ask("Create", Name="data", Opts={"source": str(source), "record": "data", "ro": "true"})
        assert ask("Path", Name="data") == {"Mountpoint": "", "Err": ""}
        point = ask("Mount", Name="data", ID="aa")["Mountpoint"]
        assert Path(point, "file").read_text() == "content\n"
        assert ask("Path", Name="data") == {"Mountpoint": point, "Err": ""}
        (volume,) = ask("List")["Volumes"]
        assert volume == ask("Get", Name="data")["Volume"]
        assert (volume["Name"], volume["Mountpoint"]) == ("data", point)
        created = time.strptime(volume["CreatedAt"], "%Y-%m-%dT%H:%M:%SZ")
        assert abs(time.time() - time.mktime(created) + time.timezone) < 60
        assert volume["Status"].items() >= {
            "state": "serving", "source": str(source), "record": "data", "read_only": True,
            "on_log_failure": "continue", "references": {"aa": 1},
        }.items()  # fmt: skip
        assert volume["Status"]["log"].endswith("/log/data.log")
        ask("Unmount", Name="data", ID="aa")
        ask("Remove", Name="data")
        answer = connection.ask("VolumeDriver.Get", {"Name": "data"})
        assert (answer.status, "no volume named data" in answer.error) == (500, True)
        assert ask("List") == {"Volumes": [], "Err": ""}


def test_one_id_may_mount_more_than_once(daemon: Daemon, plugin: Plugin, data: str) -> None:
    for count in (1, 2, 3):
        plugin.do("Mount", Name=data, ID="aa")
        assert status(plugin, data)["references"] == {"aa": count}
    plugin.do("Mount", Name=data, ID="bb")
    plugin.do("Unmount", Name=data, ID="aa")
    assert status(plugin, data)["references"] == {"aa": 2, "bb": 1}
    assert "in use by aa, bb" in daemon.refused("volume", "rm", data)


def test_podman_mounts_again_what_it_has_mounted(plugin: Plugin, data: str) -> None:
    first = plugin.do("Mount", Name=data, ID=PODMAN_ID)
    assert plugin.do("Mount", Name=data, ID=PODMAN_ID) == first


def test_to_unmount_what_is_not_mounted_is_fine(plugin: Plugin, data: str) -> None:
    plugin.do("Unmount", Name=data, ID="never-seen")
    plugin.do("Mount", Name=data, ID="aa")
    plugin.do("Unmount", Name=data, ID="never-seen")
    plugin.do("Unmount", Name=data, ID="aa")
    plugin.do("Unmount", Name=data, ID="aa")
    assert status(plugin, data)["references"] == {}


def test_options(plugin: Plugin, source: Path) -> None:
    options = {"source": str(source), "record": "data"}
    plugin.do("Create", Name="a0", Opts=options)
    plugin.do("Create", Name="a0", Opts=options)
    assert "exists with other options" in plugin.refused("Create", Name="a0", Opts={})
    assert "exists with other options" in plugin.refused(
        "Create", Name="a0", Opts={**options, "ro": "true"}
    )
    assert status(plugin, "a0")["read_only"] is False
    refusal = plugin.refused("Create", Name="b0", Opts={"colour": "red"})
    assert refusal == f"unknown volume option 'colour'; known are {', '.join(KNOWN)}"
    assert "does not exist" in plugin.refused("Create", Name="b0", Opts={"source": "/nowhere"})
    assert "expected true or false" in plugin.refused("Create", Name="b0", Opts={"ro": "perhaps"})
    # As Compose files for the driver `local` have it.
    device = {"type": "none", "o": "bind,ro,record=data", "device": str(source)}
    plugin.do("Create", Name="b0", Opts=device)
    assert status(plugin, "b0").items() >= {"record": "data", "read_only": True}.items()
    plugin.do("Create", Name="c0", Opts=None)
    plugin.do("Create", Name="c1", Opts={})
    plugin.do("Create", Name="c2")
    assert names(plugin) == ["a0", "b0", "c0", "c1", "c2"]


def test_an_anonymous_volume_of_docker(plugin: Plugin) -> None:
    name = secrets.token_hex(32)
    plugin.do("Create", Name=name, Opts=None)
    point = plugin.do("Mount", Name=name, ID=secrets.token_hex(32))["Mountpoint"]
    assert os.listdir(point) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/b", "a\0", "x\n", "x" * 300, "x"])
def test_names_lead_nowhere(daemon: Daemon, plugin: Plugin, data: str, name: str) -> None:
    kept = daemon.directory / "state/volumes.json"
    before = kept.read_bytes()
    assert "name" in plugin.refused("Create", Name=name)
    for call in ("Get", "Path", "Mount", "Unmount", "Remove"):
        assert plugin.refused(call, Name=name, ID="aa").startswith("no volume named")
    assert kept.read_bytes() == before
    assert names(plugin) == [data]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b"{}", b'{"Name":5}', b'{"Name":null}', b"\xff", b"[" * 100_000,
        b'{"Name":"\\ud800"}', b'{"Name":"data","Opts":{"\\udfff":""}}',
        b'{"Name":"data","Opts":[]}', b'{"Name":"data","Opts":{"ro":true}}',
    ],
)  # fmt: skip
def test_requests_that_cannot_be_meant(plugin: Plugin, data: str, body: bytes) -> None:
    before = plugin.do("List")
    calls = (
        ["Create"] if b"Opts" in body else ["Create", "Get", "Path", "Mount", "Unmount", "Remove"]
    )
    for call in calls:
        answer = plugin.ask(f"VolumeDriver.{call}", body)
        assert (answer.status, answer.error[:15]) == (400, "invalid request")
    assert plugin.do("List") == before


def test_clients_that_hang_up_within_a_request(plugin: Plugin, data: str) -> None:
    before = plugin.do("List")
    for call, name in (("Create", "new"), ("Remove", data), ("Mount", data)):
        whole = request(f"VolumeDriver.{call}", {"Name": name, "ID": "aa"})
        for length in (1, len(whole) // 2, len(whole) - 5, len(whole) - 1):
            with Connection(PLUGIN_SOCKET) as connection:
                connection.send(whole[:length])
    assert plugin.do("List") == before


def test_what_is_not_of_the_protocol(plugin: Plugin) -> None:
    assert plugin.ask("VolumeDriver.Nothing").status == 404
    assert plugin.ask("VolumeDriver.List", method="GET").status == 405


def test_a_mount_that_fails_holds_nothing(plugin: Plugin, data: str, source: Path) -> None:
    source.rename(source.with_name("away"))
    assert "does not exist" in plugin.refused("Mount", Name=data, ID="aa")
    assert status(plugin, data)["references"] == {}
    # Neither the list nor the volume itself suffers.
    assert names(plugin) == [data]
    source.with_name("away").rename(source)
    plugin.do("Mount", Name=data, ID="aa")


def test_the_state_of_a_volume_is_told(daemon: Daemon, plugin: Plugin, data: str) -> None:
    assert status(plugin, data)["state"] == "idle"
    plugin.do("Mount", Name=data, ID="aa")
    assert status(plugin, data)["state"] == "serving"
    kill_for_good(lambda: daemon.processes(data))
    wait_until(lambda: status(plugin, data)["state"] == "failed", "notice of the end")
    assert "killed" in status(plugin, data)["message"]
    assert names(plugin) == [data]
    assert plugin.do("Mount", Name=data, ID="bb")["Mountpoint"]


def test_the_daemon_restarts_between_mount_and_unmount(
    daemon: Daemon, plugin: Plugin, data: str
) -> None:
    point = plugin.do("Mount", Name=data, ID="aa")["Mountpoint"]
    plugin.do("Mount", Name=data, ID="aa")
    daemon.restart()
    assert status(plugin, data)["references"] == {"aa": 2}
    # Docker has the answer and is about to bind: it must not bind an empty directory.
    assert Path(point, "file").read_text() == "content\n"
    daemon.kill()
    daemon.start()
    assert status(plugin, data)["references"] == {"aa": 2}
    assert Path(point, "file").read_text() == "content\n"
    plugin.do("Unmount", Name=data, ID="aa")
    plugin.do("Unmount", Name=data, ID="aa")
    assert status(plugin, data)["references"] == {}
    daemon.stop()
    assert not PLUGIN_SOCKET.exists()
    daemon.start()
    assert names(plugin) == [data]


def test_answers_come_while_sources_hang_and_others_work(
    daemon: Daemon, plugin: Plugin, data: str, tmp_path: Path
) -> None:
    (tmp_path / "slow/source").mkdir(parents=True)
    point = plugin.do("Mount", Name=data, ID="aa")["Mountpoint"]
    took: list[float] = []
    failed: list[BaseException] = []

    def engine(number: int, ends: float) -> None:
        try:
            while time.monotonic() < ends:
                begun = time.monotonic()
                assert plugin.ask("Plugin.Activate").status == 200
                plugin.do("Get", Name=data)
                plugin.do("Mount", Name=data, ID=f"engine{number}")
                plugin.do("List")
                plugin.do("Unmount", Name=data, ID=f"engine{number}")
                took.append((time.monotonic() - begun) / 5)
        except BaseException as error:
            failed.append(error)

    with serve(tmp_path / "slow") as slow:
        plugin.do("Create", Name="hung", Opts={"source": str(slow.mountpoint)})
        os.kill(slow.status()["worker"], signal.SIGSTOP)
        writer = subprocess.Popen(["sh", "-c", f"while :; do echo x >{point}/busy; done"])
        try:
            with Connection(PLUGIN_SOCKET) as waiting, Connection(PLUGIN_SOCKET) as silent:
                waiting.send(request("VolumeDriver.Mount", {"Name": "hung", "ID": "aa"}))
                silent.send(request("VolumeDriver.List")[:30])
                ends = time.monotonic() + 2
                threads = [threading.Thread(target=engine, args=(n, ends)) for n in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        finally:
            writer.kill()
            writer.wait()
            os.kill(slow.status()["worker"], signal.SIGCONT)
        assert not failed, failed
        assert max(took) < PODMAN_S, (statistics.median(took), max(took))
        # Who waited for the hung source has hung up: it holds nothing once the source answers.
        wait_until(lambda: status(plugin, "hung")["references"] == {}, "the end of the mount")
        plugin.do("Remove", Name="hung")
    assert status(plugin, data)["references"] == {"aa": 1}


def test_a_second_daemon_does_not_take_the_socket_along(daemon: Daemon, plugin: Plugin) -> None:
    PLUGIN_SOCKET.unlink()
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(PLUGIN_SOCKET))
        daemon.stop()
        assert PLUGIN_SOCKET.exists()
    daemon.start()
    assert names(plugin) == []
