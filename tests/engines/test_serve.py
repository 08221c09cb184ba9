"""`fusevol serve`: volumes, references and workers, through its commands and its control socket."""

import contextlib
import json
import os
import random
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from fusevol.errors import FusevolError, NotFoundError
from fusevol.linux.mounts import MNT_DETACH, mount, umount
from fusevol.server.control import Client, VolumeState
from tests.engines.daemon import Daemon, plain_daemon
from tests.engines.machine import end, mounts
from tests.patience import PATIENCE_S
from tests.served import kill_for_good, kill_mount, needs_root, serve, wait_until

pytestmark = needs_root

IDLE_S: Final = 0.5


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with plain_daemon(f"idle_timeout = {IDLE_S}\n") as daemon:
        yield daemon


@pytest.fixture
def client(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    for name, value in daemon.env.items():
        monkeypatch.setenv(name, value)
    with Client() as client:
        yield client


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "inner/deep").mkdir(parents=True)
    (source / "inner/deep/file").write_text("deep\n")
    (source / "file").write_text("content\n")
    return source


@pytest.fixture
def volume(daemon: Daemon, source: Path) -> Iterator[str]:
    daemon.create("data", source)
    yield "data"
    if "data" in daemon.volumes():
        daemon.cli("volume", "release", "data", "--force")
        daemon.cli("volume", "rm", "data")


def test_a_volume_is_served_while_somebody_refers_to_it(
    daemon: Daemon, client: Client, volume: str, source: Path
) -> None:
    assert client.inspect(volume).state == "idle"
    state = client.mount(volume, "one")
    assert state.state == "serving"
    assert Path(state.mountpoint, "file").read_text() == "content\n"
    assert client.mount(volume, "one").worker == state.worker
    assert client.mount(volume, "two").references == {"one": 2, "two": 1}
    assert client.unmount(volume, "one").references == {"one": 1, "two": 1}
    assert client.unmount(volume, "nobody").references == {"one": 1, "two": 1}
    client.unmount(volume, "one")
    time.sleep(3 * IDLE_S)
    assert client.inspect(volume).worker == state.worker
    client.unmount(volume, "two")
    wait_until(lambda: client.inspect(volume).state == "idle", "end of the idle worker")
    assert daemon.mounted() == []
    assert [r["op"] for r in daemon.records(volume)][-1] == "unmount"
    assert "unmount" in daemon.cli("log", "tail", "--volume", volume)


def test_it_is_not_stopped_while_the_host_uses_it(client: Client, volume: str) -> None:
    state = client.mount(volume, "one")
    with open(f"{state.mountpoint}/file") as file:
        client.unmount(volume, "one")
        time.sleep(4 * IDLE_S)
        assert client.inspect(volume).state == "serving"
        assert file.read() == "content\n"
    wait_until(lambda: client.inspect(volume).state == "idle", "end of the idle worker")


@pytest.mark.parametrize("how", ["another directory", "another file system", "removed"])
def test_a_source_that_was_replaced_is_noticed_by_who_mounts_next(
    daemon: Daemon, client: Client, volume: str, source: Path, how: str
) -> None:
    state = client.mount(volume, "one")
    with contextlib.ExitStack() as stack:
        if how == "another file system":
            mount("tmpfs", str(source), "tmpfs", 0, "size=1m")
            stack.callback(umount, str(source), MNT_DETACH)
        else:
            source.rename(source.with_name("old"))
        if how == "another directory":
            source.mkdir()
        with pytest.raises(FusevolError, match=f"its source {source} was replaced"):
            client.mount(volume, "two")
        told = client.inspect(volume)
        assert told.references == {"one": 1}
        assert "was replaced" in told.message
        assert Path(state.mountpoint, "file").read_text() == "content\n"
        client.unmount(volume, "one")
        if how == "removed":
            with pytest.raises(NotFoundError, match="does not exist"):
                client.mount(volume, "two")
            return
        (source / "new").touch()
        state = client.mount(volume, "two")
        assert os.listdir(state.mountpoint) == ["new"]
        assert state.message == ""
        assert client.mount(volume, "three").worker == state.worker
        for holder in ("two", "three"):
            client.unmount(volume, holder)
        wait_until(lambda: client.inspect(volume).state == "idle", "end of the idle worker")


def test_a_source_behind_a_link_that_leads_elsewhere_now(
    daemon: Daemon, client: Client, source: Path
) -> None:
    link = source.with_name("link")
    link.symlink_to(source)
    daemon.create("linked", link)
    client.mount("linked", "one")
    link.unlink()
    link.symlink_to(source / "inner")
    client.unmount("linked", "one")
    assert os.listdir(client.mount("linked", "two").mountpoint) == ["deep"]
    client.unmount("linked", "two")
    daemon.cli("volume", "rm", "linked")


def test_a_reference_ends_with_its_process(client: Client, volume: str) -> None:
    process = subprocess.Popen(["sleep", "60"])
    client.mount(volume, "one", process.pid)
    client.mount(volume, "two", os.getpid())
    process.kill()
    process.wait()
    wait_until(lambda: client.inspect(volume).references == {"two": 1}, "end of the reference")


def test_a_volume_without_source_keeps_its_data_until_it_is_removed(
    daemon: Daemon, client: Client
) -> None:
    daemon.cli("volume", "create", "own")
    state = client.mount("own", "one")
    Path(state.mountpoint, "file").write_text("kept")
    assert Path(state.source, "file").read_text() == "kept"
    assert stat.S_IMODE(os.stat(Path(state.source).parent).st_mode) == 0o700
    client.unmount("own", "one")
    wait_until(lambda: client.inspect("own").state == "idle", "end of the idle worker")
    assert Path(client.mount("own", "one").mountpoint, "file").read_text() == "kept"
    assert "is in use by one" in daemon.refused("volume", "rm", "own")
    client.unmount("own", "one")
    daemon.cli("volume", "rm", "own")
    assert not Path(state.source).exists()
    assert daemon.cli("volume", "create", "own") == "own"
    assert os.listdir(client.mount("own", "one").mountpoint) == []
    client.unmount("own", "one")
    daemon.cli("volume", "rm", "own")
    assert (daemon.directory / "log/own.log").exists()


def test_an_anonymous_volume_goes_with_its_last_reference(
    daemon: Daemon, client: Client, source: Path
) -> None:
    name = client.create("", {"source": str(source / "file")}).name
    assert len(name) == 64
    state = client.mount(name, "one")
    assert Path(state.mountpoint).read_text() == "content\n"
    client.unmount(name, "one")
    wait_until(lambda: name not in daemon.volumes(), "end of the anonymous volume")
    assert source.exists()


def test_a_subpath_leads_below_the_source_only(
    daemon: Daemon, client: Client, source: Path
) -> None:
    (source / "out").symlink_to("/etc")
    daemon.create("part", source, "-o", "subpath=inner/deep")
    assert os.listdir(client.mount("part", "one").mountpoint) == ["file"]
    client.unmount("part", "one")
    daemon.cli("volume", "rm", "part")
    daemon.create("out", source, "-o", "subpath=out")
    with pytest.raises(Exception, match="Too many levels of symbolic links"):
        client.mount("out", "one")
    assert client.inspect("out").references == {}
    daemon.cli("volume", "rm", "out")


def test_options_change_for_the_next_use(daemon: Daemon, client: Client, volume: str) -> None:
    state = client.mount(volume, "one")
    assert "in use" in daemon.said("volume", "update", volume, "--read-only")
    Path(state.mountpoint, "new").touch()
    client.unmount(volume, "one")
    wait_until(lambda: client.inspect(volume).state == "idle", "end of the idle worker")
    state = client.mount(volume, "one")
    with pytest.raises(OSError, match="Read-only file system"):
        Path(state.mountpoint, "newer").touch()
    client.unmount(volume, "one")
    # Nobody uses it: the next one finds it changed, however long the worker would have stayed.
    assert daemon.said("volume", "update", volume, "--read-write") == ""
    Path(client.mount(volume, "one").mountpoint, "newer").touch()


def test_what_cannot_be_served_is_refused_when_it_is_made(daemon: Daemon, source: Path) -> None:
    assert "does not exist" in daemon.refused("volume", "create", "no", "--source", source / "no")
    assert "unknown volume option 'size'; known are source" in daemon.refused(
        "volume", "create", "no", "-o", "size=1"
    )
    for name in ("../x", ".x", "x/y", "x" * 300, "x\n"):
        assert "invalid volume name" in daemon.refused("volume", "create", name)
    assert "overlaps" in daemon.refused("volume", "create", "no", "--source", "/")
    assert "NAME=VALUE" in daemon.refused("volume", "create", "no", "-o", "record")
    assert "no volume named no;" in daemon.refused("volume", "inspect", "no")
    daemon.said("volume", "create", "invoices")
    assert "; did you mean invoices?" in daemon.refused("volume", "inspect", "invioces")
    daemon.said("volume", "rm", "invoices")
    assert daemon.volumes() == []


def test_a_worker_that_died_is_succeeded(client: Client, volume: str) -> None:
    state = client.mount(volume, "one")
    with Path(state.mountpoint, "file").open() as file:
        end(state.worker, signal.SIGKILL)
        assert file.read() == "content\n"
    again = client.inspect(volume)
    assert (again.state, again.keeper, again.restarts) == ("serving", state.keeper, 1)
    assert again.worker not in (0, state.worker)


def test_a_keeper_that_died_is_succeeded(client: Client, volume: str) -> None:
    state = client.mount(volume, "one")
    with Path(state.mountpoint, "file").open() as file:
        end(state.keeper, signal.SIGKILL)
        assert file.read() == "content\n"
        wait_until(lambda: client.inspect(volume).restarts == 1, "the worker to be the keeper")
    again = client.inspect(volume)
    assert (again.state, again.keeper) == ("serving", state.worker)
    client.unmount(volume, "one")
    wait_until(lambda: client.inspect(volume).state == "idle", "end of the volume")


def test_a_volume_in_use_follows_its_options(daemon: Daemon, client: Client, volume: str) -> None:
    state = client.mount(volume, "one")
    file = Path(state.mountpoint, "file")
    with file.open() as reading:
        client.update(volume, {"record": "data", "on_log_failure": "deny"})
        wait_until(lambda: client.inspect(volume).restarts == 1, "the other worker")
        assert reading.read() == "content\n"
        seen = len(daemon.records(volume))
        file.stat()
        assert {record["op"] for record in daemon.records(volume)[seen:]} <= {"restart"}
    again = client.inspect(volume)
    assert (again.record, again.on_log_failure, again.keeper) == ("data", "deny", state.keeper)


def test_a_mount_whose_processes_are_all_killed_is_revived(client: Client, volume: str) -> None:
    state = client.mount(volume, "one")
    file = Path(state.mountpoint, "file")
    with file.open() as reading, file.open("a") as appending:
        kill_mount(state.keeper, state.worker)
        assert reading.read() == "content\n"
        appending.write("more\n")
    assert file.read_text() == "content\nmore\n"
    again = client.inspect(volume)
    assert (again.state, again.restarts) == ("serving", 1)


def test_a_mount_that_is_killed_again_and_again_is_told_of_and_replaced(
    client: Client, volume: str
) -> None:
    state = client.mount(volume, "one")
    kill_for_good(lambda: _processes(client.inspect(volume)))
    wait_until(lambda: client.inspect(volume).state == "failed", "notice of the end")
    assert client.inspect(volume).message == "keeper and worker were killed"
    again = client.mount(volume, "two")
    assert again.worker != state.worker
    assert Path(again.mountpoint, "file").read_text() == "content\n"


def _processes(state: VolumeState) -> tuple[int, int]:
    return state.keeper, state.worker


def test_a_hung_source_holds_up_nothing_else(
    daemon: Daemon, client: Client, volume: str, tmp_path: Path
) -> None:
    (tmp_path / "slow/source").mkdir(parents=True)
    with serve(tmp_path / "slow") as slow:
        daemon.create("hung", slow.mountpoint)
        worker = slow.status()["worker"]
        os.kill(worker, signal.SIGSTOP)
        try:
            waiting = subprocess.Popen(
                daemon.words("volume", "create", "hung2", "--source", slow.mountpoint),
                env={**os.environ, **daemon.env}, stderr=subprocess.PIPE,
            )  # fmt: skip
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
                asking.connect(f"{daemon.env['FUSEVOL_RUNTIME_DIRECTORY']}/control.sock")
                asking.sendall(b'{"type":"Mount","name":"hung","holder":"one"}\n')
                time.sleep(0.5)
                took = []
                for _ in range(50):
                    started = time.monotonic()
                    assert {v.name for v in client.list()} == {"data", "hung"}
                    took.append(time.monotonic() - started)
                assert sorted(took)[25] < 1
                assert client.mount(volume, "two").state == "serving"
        finally:
            os.kill(worker, signal.SIGCONT)
        assert waiting.wait(PATIENCE_S) == 0
        assert waiting.stderr
        waiting.stderr.close()
        wait_until(lambda: client.inspect("hung").state == "serving", "the mount")
        client.unmount("hung", "one")
        daemon.cli("volume", "rm", "hung", "hung2")


def ask(daemon: Daemon, data: bytes) -> list[dict[str, Any]]:
    """Return the answers to some bytes that are followed by the end of the stream."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(PATIENCE_S)
        asking.connect(f"{daemon.env['FUSEVOL_RUNTIME_DIRECTORY']}/control.sock")
        try:
            asking.sendall(data)
            asking.shutdown(socket.SHUT_WR)
        except BrokenPipeError:
            pass
        got = b""
        try:
            while data := asking.recv(65536):
                got += data
        except ConnectionResetError:
            pass
    return [json.loads(line) for line in got.splitlines()]


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"type":"Nothing"}', b'{"type":"Inspect"}',
        b'{"type":"Inspect","name":5}', b'{"type":"Inspect","name":"a","more":1}',
        b'{"type":"Mount","name":"data","holder":""}',
        b'{"type":"Mount","name":"data","holder":[]}',
        b"[" * 100_000, b'{"type":"Inspect","name":"\\ud800"}',
        b'{"type":"Inspect","name":"\\udC00"}',
        b'{"type":"Create","name":"new","options":{"source":"/\\uDBFF"}}',
        b'{"type":"Create","name":"new","options":{"\\ud800":"/x"}}',
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_meant_is_answered_with_an_error(
    daemon: Daemon, volume: str, line: bytes
) -> None:
    before = daemon.inspect(volume)
    (answer,) = ask(daemon, line + b"\n")
    assert answer["type"] == "Failed", answer
    assert "Traceback" not in answer["message"]
    assert daemon.inspect(volume) == before
    assert ask(daemon, line[:-1]) == []
    assert "Traceback" not in daemon.messages()


def test_an_endless_request_is_cut_off(daemon: Daemon) -> None:
    (answer,) = ask(daemon, b"x" * (3 << 20))
    assert "too long" in answer["message"]


def test_a_volume_whose_name_has_become_none_can_be_removed(daemon: Daemon, source: Path) -> None:
    assert "invalid volume name" in daemon.refused("volume", "create", "d")
    daemon.create("dd", source)
    daemon.stop()
    kept = daemon.directory / "state/volumes.json"
    kept.write_text(kept.read_text().replace('"dd"', '"d"'))
    daemon.start()
    assert list(daemon.volumes()) == ["d"]
    with daemon.client() as client:
        assert Path(client.mount("d", "one").mountpoint, "file").read_text() == "content\n"
        client.unmount("d", "one")
    daemon.cli("volume", "rm", "d")
    assert list(daemon.volumes()) == []


def test_sockets_and_state_are_private(daemon: Daemon) -> None:
    runtime = Path(daemon.env["FUSEVOL_RUNTIME_DIRECTORY"])
    assert stat.S_IMODE((runtime / "control.sock").stat().st_mode) == 0o600
    for path in (runtime, runtime / "volumes"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_second_daemon_for_the_same_directories_is_refused(daemon: Daemon) -> None:
    assert "is already running" in daemon.refused("serve")
    assert daemon.volumes() == []


def creating(name: str, source: Path) -> bytes:
    """Return the request to make a volume."""
    request = {"type": "Create", "name": name, "options": {"source": str(source)}}
    return json.dumps(request).encode() + b"\n"


def test_sigkill_at_any_moment_loses_nothing_that_was_answered(source: Path) -> None:
    rng = random.Random(4)
    with plain_daemon() as daemon:
        known: set[str] = set()
        for turn in range(6):
            created: set[str] = set()
            removed: set[str] = set()
            until = time.monotonic() + rng.uniform(0.05, 0.3)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
                asking.connect(f"{daemon.env['FUSEVOL_RUNTIME_DIRECTORY']}/control.sock")
                answers = asking.makefile("rb")
                while time.monotonic() < until:
                    name = f"v{turn}-{len(created)}"
                    asking.sendall(creating(name, source))
                    assert json.loads(answers.readline())["type"] == "State"
                    created.add(name)
                    if rng.random() < 0.3:
                        asking.sendall(b'{"type":"Remove","name":"%s"}\n' % name.encode())
                        assert json.loads(answers.readline())["type"] == "State"
                        removed.add(name)
                # One more is under way when the daemon is killed.
                asking.sendall(creating(f"v{turn}-last", source))
                daemon.kill()
                answers.close()
            daemon.start()
            known |= created - removed
            found = set(daemon.volumes())
            assert found - {f"v{turn}-last"} == known
            known = found
        daemon.cli("volume", "rm", *known)


def test_workers_in_use_go_on_when_the_daemon_is_killed_and_are_taken_up_again(
    source: Path,
) -> None:
    with plain_daemon(f"idle_timeout = {IDLE_S}\n") as daemon:
        daemon.create("data", source)
        with daemon.client() as client:
            worker = client.mount("data", "one", os.getpid()).worker
        daemon.kill()
        assert Path(daemon.mount_point("data"), "file").read_text() == "content\n"
        daemon.start()
        state = daemon.inspect("data")
        assert (state["state"], state["worker"]) == ("serving", worker)
        assert state["references"] == {"one": 1}
        daemon.cli("volume", "release", "data", "--force")
        wait_until(lambda: daemon.inspect("data")["state"] == "idle", "end of the worker")
        numbers = [record["seq"] for record in daemon.records("data")]
        assert numbers == list(range(1, len(numbers) + 1))
        daemon.cli("volume", "rm", "data")


def test_a_dead_mount_of_an_earlier_daemon_is_removed(source: Path) -> None:
    with plain_daemon() as daemon:
        daemon.create("data", source)
        with daemon.client() as client:
            state = client.mount("data", "one", os.getpid())
        daemon.kill()
        kill_mount(state.keeper, state.worker)
        assert daemon.mounted()
        daemon.start()
        assert daemon.mounted() == []
        with daemon.client() as client:
            again = client.mount("data", "two")
            assert Path(again.mountpoint, "file").read_text() == "content\n"
        daemon.cli("volume", "release", "data", "--force")
        daemon.cli("volume", "rm", "data")


def test_volumes_of_the_configuration_are_made_and_follow_it(source: Path) -> None:
    text = f'[volumes.data]\nsource = "{source}"\nrecord = "data"\n'
    with plain_daemon(text) as daemon:
        assert daemon.inspect("data")["record"] == "data"
        daemon.configure(text + "ro = true\n")
        os.kill(daemon.pid, signal.SIGHUP)
        wait_until(lambda: daemon.inspect("data")["read_only"], "the new configuration")
        daemon.configure("volumes = 5\n")
        os.kill(daemon.pid, signal.SIGHUP)
        wait_until(lambda: "the configuration was not changed" in daemon.messages(), "the refusal")
        assert daemon.inspect("data")["read_only"]
        daemon.configure(text)
        daemon.cli("volume", "rm", "data")


def test_the_host_sees_nothing_of_volumes_that_nobody_uses(daemon: Daemon, volume: str) -> None:
    assert [mount for mount in mounts() if mount.fstype == "fuse.fusevol"
            and str(daemon.directory) in mount.point] == []  # fmt: skip
