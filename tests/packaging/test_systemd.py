"""The units: what systemd itself thinks of them, and what the daemon tells it."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.packaging.manager import managing
from tests.patience import PATIENCE_S
from tests.served import FUSEVOL, is_mounted, read_log, wait_until

UNITS = Path(__file__).parents[2] / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
SOCKET = UNITS / "fusevol.socket"
METRICS_SOCKET = UNITS / "fusevol-metrics.socket"

CUTS_PROPAGATION = re.compile(
    r"(Private(Mounts|Tmp|Devices)|Protect(System|Home|Kernel\w+|ControlGroups|Proc)|"
    r"(ReadOnly|ReadWrite|Inaccessible|Exec|NoExec)Paths|Bind(ReadOnly)?Paths|"
    r"Root(Directory|Image)|DynamicUser|LogNamespace|TemporaryFileSystem|MountFlags|ProcSubset)="
)
"""Settings that give a service a mount namespace of its own (systemd.exec(5))."""


def test_there_are_units() -> None:
    assert [path.name for path in SERVICES] == [
        "fusevol-example.service", "fusevol.service", "fusevol@.service",
    ]  # fmt: skip


@pytest.mark.parametrize("unit", [*SERVICES, METRICS_SOCKET], ids=lambda path: path.name)
def test_systemd_finds_nothing_wrong(unit: Path, tmp_path: Path) -> None:
    # systemd finds `fusevol` in /usr/local/bin and the like, the tests have it elsewhere.
    copy = tmp_path / unit.name.replace("@.", "@data.")
    for other in (SOCKET, UNITS / "fusevol.service"):
        text = re.sub(r"(?m)^(Exec\w+=)fusevol\b", rf"\1{FUSEVOL}", other.read_text())
        (tmp_path / other.name).write_text(text)
    copy.write_text(re.sub(r"(?m)^(Exec\w+=)fusevol\b", rf"\1{FUSEVOL}", unit.read_text()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", copy],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.name)
def test_nothing_hides_the_mount_from_the_host(unit: Path) -> None:
    settings = [line for line in unit.read_text().splitlines() if not line.startswith("#")]
    assert [line for line in settings if CUTS_PROPAGATION.match(line)] == []


def test_the_units_differ_only_in_what_they_serve() -> None:
    def settings(unit: Path) -> set[str]:
        text = unit.read_text().replace("\\\n", "")
        start = text.index("[Service]")
        specific = ("ExecStart=", "Environment", "#")
        return {line for line in text[start:].splitlines() if not line.startswith(specific)}

    assert settings(UNITS / "fusevol@.service") == settings(UNITS / "fusevol-example.service")


@contextmanager
def service(directory: Path, *prefix: str) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Run what the template's ExecStart says, with a receiver of ours for what it tells systemd."""
    for name in ("source", "mnt"):
        (directory / name).mkdir()
    values = {
        "OPTIONS": f"log={directory}/log", "SOURCE": str(directory / "source"),
        "MOUNTPOINT": str(directory / "mnt"),
    }  # fmt: skip
    [line] = re.findall(r"(?m)^ExecStart=fusevol (.*)$", (UNITS / "fusevol@.service").read_text())
    words = [
        re.sub(r"\$\{(\w+)\}", lambda m: values[m[1]], word).replace("%i", "data")
        for word in line.split()
    ]
    with managing(directory) as manager, manager.start(*prefix, FUSEVOL, *words) as daemon:
        try:
            manager.await_message("READY=1")
            assert is_mounted(directory / "mnt"), "READY=1 came before the mount"
            yield daemon, directory
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGTERM)
                manager.await_message("STOPPING=1")
            assert daemon.wait(PATIENCE_S) == 0
        finally:
            daemon.kill()
            subprocess.run(
                ["umount", "--lazy", directory / "mnt"], check=False, capture_output=True
            )


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, as the service has")
def test_life_of_the_service(tmp_path: Path) -> None:
    with service(tmp_path) as (daemon, directory):
        log = directory / "log"
        (directory / "mnt/file").write_text("text")
        log.rename(directory / "log.1")
        daemon.send_signal(signal.SIGHUP)  # ExecReload=
        wait_until(log.exists, "new log")
    assert not is_mounted(directory / "mnt")
    records = read_log(directory / "log.1", log)
    assert records[0]["op"] == "mount"
    assert records[-1]["op"] == "unmount"
    assert {record["volume"] for record in records} == {"data"}


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, as the service has")
def test_the_capabilities_of_the_unit_are_enough(tmp_path: Path) -> None:
    text = (UNITS / "fusevol@.service").read_text()
    kept = " ".join(re.findall(r"(?m)^CapabilityBoundingSet=(.*)$", text)).split()
    bounding = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in kept)])
    owner = 1234
    with service(
        tmp_path, "setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set={bounding}"
    ) as (_, directory):
        mnt = directory / "mnt"
        mnt.chmod(0o1777)
        subprocess.run(
            ["setpriv", f"--reuid={owner}", f"--regid={owner}", "--clear-groups", "sh", "-c",
             "umask 022; : > theirs"], check=True, cwd=mnt,
        )  # fmt: skip
        assert (tmp_path / "source/theirs").stat().st_uid == owner
        os.chown(mnt / "theirs", 4321, 4321)
        os.setxattr(mnt / "theirs", "trusted.test", b"1")
        os.mkfifo(mnt / "fifo")
        (mnt / "ours").touch()
    assert (tmp_path / "source/theirs").stat().st_uid == 4321
    assert (tmp_path / "source/ours").stat().st_uid == 0


def ask_plugin(path: Path, call: str, body: object = None) -> dict[str, object]:
    """Call the volume plugin at a socket."""
    connection = http.client.HTTPConnection("plugin", timeout=PATIENCE_S)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(PATIENCE_S)
    try:
        connection.sock.connect(str(path))
        connection.request("POST", f"/{call}", json.dumps(body or {}))
        return dict(json.loads(connection.getresponse().read()))
    finally:
        connection.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, as the service has")
def test_the_plugin_is_started_by_its_socket_and_leaves_it_there(tmp_path: Path) -> None:
    [name] = re.findall(r"(?m)^FileDescriptorName=(.*)$", SOCKET.read_text())
    path = tmp_path / "plugin.sock"
    env = {f"FUSEVOL_{kind.upper()}_DIRECTORY": str(tmp_path / kind)
           for kind in ("state", "runtime", "log")}  # fmt: skip
    (tmp_path / "runtime").mkdir(mode=0o700)
    words = [f"--setenv={key}={value}" for key, value in env.items()]
    with subprocess.Popen(
        ["systemd-socket-activate", f"--listen={path}", f"--fdname={name}", *words,
         FUSEVOL, "serve"],
        stderr=subprocess.DEVNULL, env={**os.environ, **env},
    ) as daemon:  # fmt: skip
        try:
            wait_until(path.exists, "the socket")
            assert not (tmp_path / "runtime/control.sock").exists(), "not before it is asked"
            source = tmp_path / "source"
            source.mkdir()
            created = {"Name": "data", "Opts": {"source": str(source)}}
            assert ask_plugin(path, "VolumeDriver.Create", created) == {"Err": ""}
            assert ask_plugin(path, "VolumeDriver.Path", {"Name": "data"})["Err"] == ""
            daemon.terminate()
            assert daemon.wait(PATIENCE_S) == 0
            assert path.exists()
        finally:
            daemon.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, as the service has")
def test_metrics_are_served_at_the_socket_that_is_passed_without_a_network(tmp_path: Path) -> None:
    [name] = re.findall(r"(?m)^FileDescriptorName=(.*)$", METRICS_SOCKET.read_text())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    plugin, ready = tmp_path / "plugin.sock", tmp_path / "runtime/control.sock"
    (tmp_path / "fusevol.toml").write_text(f'[docker]\nsocket = "{plugin}"\n')
    (tmp_path / "runtime").mkdir(mode=0o700)
    words = [f"--setenv=FUSEVOL_{kind.upper()}_DIRECTORY={tmp_path / kind}"
             for kind in ("state", "runtime", "log")]  # fmt: skip
    with subprocess.Popen(
        ["systemd-socket-activate", f"--listen=127.0.0.1:{port}", f"--fdname={name}", *words,
         "unshare", "--net", FUSEVOL, "serve", "--config", tmp_path / "fusevol.toml"],
        stderr=subprocess.DEVNULL,
    ) as daemon:  # fmt: skip
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            wait_until(lambda: _connects(connection), "the socket")
            connection.request("GET", "/metrics")
            assert b"fusevol_build_info" in connection.getresponse().read()
            connection.close()
            assert ready.exists()
            assert plugin.exists(), "the plugin took the socket for its own"
            daemon.terminate()
            assert daemon.wait(PATIENCE_S) == 0
        finally:
            daemon.kill()


def _connects(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.connect()
    except ConnectionRefusedError:
        return False
    return True
