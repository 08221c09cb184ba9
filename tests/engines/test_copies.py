"""Copies of a volume's mount that others hold, as a new mount namespace has of all mounts."""

import errno
import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusevol.errors import FusevolError
from fusevol.server.control import Client
from tests.engines.daemon import Daemon, plain_daemon
from tests.served import assert_no_gap_in_numbers, needs_root, wait_until

pytestmark = needs_root

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with plain_daemon("idle_timeout = 0.2\n") as daemon:
        yield daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as client:
        yield client


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("content\n")
    return source


@pytest.fixture
def volume(daemon: Daemon, source: Path) -> Iterator[str]:
    """A volume with a log of its own that is removed whatever a test leaves."""
    name = daemon.create(f"data{next(_numbers)}", source)
    yield name
    if name in daemon.volumes():
        daemon.cli("volume", "release", name, "--force")
        daemon.cli("volume", "rm", name)


@contextmanager
def namespace(script: str = "") -> Iterator["subprocess.Popen[str]"]:
    """A process in a mount namespace of its own, with a private copy of all mounts.

    It runs `script` and then does what it is told, a line of shell each, and answers each by one.
    """
    shell = f"{script}\necho ready\nwhile read line; do eval $line; done"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", shell], stdin=-1, stdout=-1, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def tell(process: "subprocess.Popen[str]", line: str) -> str:
    """Have a process of `namespace` do something; return what it answers."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def release(client: Client, volume: str) -> None:
    """Give a volume back, and wait until it is idle."""
    client.unmount(volume, "one")
    wait_until(lambda: client.inspect(volume).state == "idle", "end of use on the host", 20)


def test_a_copy_of_all_mounts_keeps_no_volume(
    daemon: Daemon, client: Client, volume: str, source: Path
) -> None:
    first = client.mount(volume, "one")
    with namespace():
        release(client, volume)
        # It ends as if there were no copy.
        assert daemon.records(volume)[-1]["op"] == "unmount"
        again = client.mount(volume, "one")
        assert again.worker != first.worker
        assert Path(again.mountpoint, "file").read_text() == "content\n"
        client.unmount(volume, "one")
        client.remove(volume)
        records = daemon.records(volume)
        assert [r["result"] for r in records if r["op"] == "unmount"] == ["ok", "ok"]
        assert_no_gap_in_numbers(records)


def test_what_is_open_in_a_copy_goes_on_beside_the_next_users(
    daemon: Daemon, client: Client, volume: str, source: Path
) -> None:
    first = client.mount(volume, "one")
    with namespace(f"exec 3>>{first.mountpoint}/file") as holder:
        release(client, volume)
        assert client.inspect(volume).worker == first.worker
        assert tell(holder, "echo held >&3; echo $?") == "0"
        again = client.mount(volume, "one")
        assert (again.keeper, again.worker) == (first.keeper, first.worker)
        assert Path(again.mountpoint, "file").read_text() == "content\nheld\n"
        Path(again.mountpoint, "new").write_text("new\n")
        assert tell(holder, "echo more >&3; echo $?") == "0"
        release(client, volume)
    wait_until(lambda: daemon.records(volume)[-1]["op"] == "unmount", "end of the worker")
    assert (source / "file").read_text() == "content\nheld\nmore\n"
    records = daemon.records(volume)
    assert [r["op"] for r in records].count("unmount") == 1
    assert_no_gap_in_numbers(records)


def test_a_volume_is_removed_whoever_has_a_file_open_in_a_copy(
    daemon: Daemon, client: Client, volume: str
) -> None:
    state = client.mount(volume, "one")
    with namespace(f"exec 3>>{state.mountpoint}/file") as holder:
        release(client, volume)
        client.remove(volume)
        assert volume not in daemon.volumes()
        assert "not connected" in tell(holder, "cat /proc/self/fd/3 2>&1").lower()
    assert not Path(state.mountpoint).exists()
    assert daemon.records(volume)[-1]["op"] == "unmount"


def test_an_option_counts_although_a_copy_is_in_use(
    daemon: Daemon, client: Client, volume: str, source: Path
) -> None:
    first = client.mount(volume, "one")
    with namespace(f"exec 3>>{first.mountpoint}/file") as holder:
        release(client, volume)
        client.update(volume, {"ro": "true"})
        # The same file system, mounted read-only.
        state = client.mount(volume, "one")
        assert state.worker == first.worker
        with pytest.raises(OSError, match="Read-only") as refused:
            Path(state.mountpoint, "new").touch()
        assert refused.value.errno == errno.EROFS
        release(client, volume)
        client.update(volume, {"ro": "false", "log": str(source.parent / "other.log")})
        state = client.mount(volume, "one")
        assert state.worker != first.worker
        Path(state.mountpoint, "new").touch()
        assert tell(holder, "echo lost >&3 || echo failed") == "failed"
        release(client, volume)


def test_the_next_daemon_serves_what_lives_on_in_a_copy(daemon: Daemon, volume: str) -> None:
    with daemon.client() as client:
        first = client.mount(volume, "one")
    with namespace(f"exec 3>>{first.mountpoint}/file") as holder:
        with daemon.client() as client:
            release(client, volume)
        daemon.restart()
        with daemon.client() as client:
            assert client.inspect(volume).state == "idle"
            again = client.mount(volume, "one")
            assert (again.keeper, again.worker) == (first.keeper, first.worker)
            assert tell(holder, "echo held >&3; echo $?") == "0"
            assert Path(again.mountpoint, "file").read_text() == "content\nheld\n"
            client.unmount(volume, "one")
            client.remove(volume)


def test_what_is_bound_elsewhere_is_not_removed(client: Client, volume: str, source: Path) -> None:
    state = client.mount(volume, "one")
    place = source.parent / "place"
    place.mkdir()
    with namespace(f"mount --bind {state.mountpoint} {place}") as holder:
        client.unmount(volume, "one")
        with pytest.raises(
            FusevolError, match=f"is still bound in the mount namespace of process {holder.pid};"
        ):
            client.remove(volume)
        assert tell(holder, f"cat {place}/file") == "content"
        assert client.mount(volume, "one").worker == state.worker
        client.unmount(volume, "one")


@pytest.mark.parametrize("of", ["", "file"])
@pytest.mark.parametrize("was_used", [True, False])
def test_nothing_stays_of_a_removed_volume(
    daemon: Daemon, client: Client, source: Path, of: str, was_used: bool
) -> None:
    client.create("gone", {"source": str(source / of if of else source)})
    if was_used:
        client.mount("gone", "one")
        client.unmount("gone", "one")
    client.remove("gone")
    assert os.listdir(daemon.directory / "runtime/volumes") == []


def test_what_an_earlier_version_left_of_removed_volumes_goes(daemon: Daemon) -> None:
    left = daemon.directory / "runtime/volumes/left"
    left.mkdir(mode=0o000)
    daemon.restart()
    assert not left.exists()
