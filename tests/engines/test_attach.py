"""Volumes put into running containers and taken out again, on each engine alike."""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.engines.daemon import Daemon, plain_daemon
from tests.engines.docker import docker_daemon
from tests.engines.engines import Container, DockerBind, Engine, PodmanBind, Run, container
from tests.engines.machine import command, mounts
from tests.engines.podman import podman_with
from tests.engines.rootfs import ORIGINAL
from tests.served import FUSEVOL, needs_root, read_log, wait_until

pytestmark = needs_root

ENGINES: Final = ("docker", "podman-crun", "podman-runc", "run", "pid")

_numbers = itertools.count(1)


@dataclass
class Running:
    """A running container and the words that attach calls it by."""

    daemon: Daemon
    container: Container
    target: str

    def __call__(self, script: str, check: bool = True) -> str:
        return self.container(script, check)

    @property
    def env(self) -> dict[str, str]:
        return {**self.daemon.env, **self.container.engine.environment()}

    def fusevol(self, *words: str | Path) -> str:
        """Run a command of fusevol, which has nothing to complain of; return what it printed."""
        done = command(FUSEVOL, *words, env=self.env)
        assert done.stderr == ""
        return done.stdout

    def refused(self, *words: str | Path) -> str:
        """Run a command of fusevol, which has to fail with one line; return that line."""
        done = command(FUSEVOL, *words, env=self.env, check=False)
        assert done.returncode != 0, f"{words} succeeded: {done.stdout}"
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.strip()

    def attach(self, what: str) -> None:
        self.fusevol("attach", self.target, what)

    def detach(self, destination: str, *options: str) -> None:
        self.fusevol("detach", *options, self.target, destination)

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.fusevol("attach", "--list", "--json"))
        return found


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with plain_daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module", params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def engine(
    engine_name: str, daemon: Daemon, rootfs: Path, oci_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Engine]:  # fmt: skip
    directory = tmp_path_factory.mktemp(engine_name)
    if engine_name == "docker":
        with docker_daemon(rootfs) as docker:
            yield DockerBind(docker, directory)
    elif engine_name.startswith("podman"):
        with podman_with(engine_name.removeprefix("podman-"), rootfs, Path("/nowhere")) as podman:
            yield PodmanBind(podman, directory)
    else:
        yield Run(daemon, oci_image, directory / "committed")


def target_of(engine_name: str, one: Container) -> str:
    kind, _, _runtime = engine_name.partition("-")
    if kind == "pid":
        return f"pid:{one.pid}"
    return one.name if kind == "run" else f"{kind}:{one.name}"


@pytest.fixture(scope="module")
def running(engine_name: str, engine: Engine, daemon: Daemon) -> Iterator[Running]:
    """One container for all tests of an engine."""
    with container(engine, f"c{next(_numbers)}") as one:
        yield Running(daemon, one, target_of(engine_name, one))


@pytest.fixture
def source(source: Path) -> Path:
    (source / "inner").mkdir()
    (source / "inner/file").write_text("inner\n")
    return source


def test_the_host_and_a_running_container_see_each_others_files(
    running: Running, volume: str, source: Path
) -> None:
    running.attach(f"{volume}:/data")
    assert running("cat /data/from-host") == "made on the host"
    running("echo made inside >/data/new")
    assert (source / "new").read_text() == "made inside\n"
    assert running.daemon.references(volume) == {f"{running.container.id}:/data": 1}
    running.detach("/data")


def test_each_record_names_the_container(running: Running, volume: str) -> None:
    running.attach(f"{volume}:/data")
    running("echo x >/data/new; cat /data/new; rm /data/new")
    running.detach("/data")
    records = [r for r in running.daemon.records(volume) if r.get("path") == "/new"]
    assert {"create", "write", "read", "unlink"} <= {r["op"] for r in records}
    assert {r.get("container") for r in records if r["op"] != "lookup"} == {running.container.id}


def test_what_was_there_is_back_after_detaching(
    running: Running, volume: str, source: Path
) -> None:
    before = mounts(running.container.pid)
    assert running("cat /data/original") == ORIGINAL.strip()
    running.attach(f"{volume}:/data")
    assert "original" not in running("ls /data").split()
    running("echo changed >/data/original")
    running.detach("/data")
    assert running("cat /data/original") == ORIGINAL.strip()
    assert (source / "original").read_text() == "changed\n"
    assert mounts(running.container.pid) == before


def test_no_other_mount_table_has_it(running: Running, volume: str) -> None:
    running.attach(f"{volume}:/data")
    (inside,) = [mount for mount in mounts(running.container.pid) if mount.point == "/data"]
    assert inside.fstype == "fuse.fusevol"
    outside = [mount.point for mount in mounts() if mount.device == inside.device]
    assert outside == [str(running.daemon.mount_point(volume))]
    running.detach("/data")


def test_read_only(running: Running, volume: str, source: Path) -> None:
    running.attach(f"{volume}:/mnt/readable:ro")
    assert running("cat /mnt/readable/from-host") == "made on the host"
    assert "Read-only" in running("echo x >/mnt/readable/new", check=False)
    assert not (source / "new").exists()
    running.detach("/mnt/readable")
    assert running("ls -A /mnt/readable") == ""


def test_a_part_of_a_volume(running: Running, volume: str) -> None:
    running.attach(f"{volume}/inner:/mnt/part")
    assert running("cat /mnt/part/file; ls /mnt/part/..") != ""
    assert running("ls /mnt/part") == "file"
    assert "from-host" not in running("ls /mnt/part/..")
    running.detach("/mnt/part")


def test_a_single_file(running: Running, tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("from the host\n")
    running.attach(f"{file}:/etc/settings")
    running("echo from inside >>/etc/settings")
    assert file.read_text() == "from the host\nfrom inside\n"
    running.detach("/etc/settings")
    assert running("cat /etc/settings") == ""


def test_the_mount_of_a_path_goes_with_its_attachment(running: Running, source: Path) -> None:
    running.attach(f"{source}:/mnt/path")
    assert running.daemon.volumes() == []
    running("echo x >/mnt/path/new")
    (log,) = (running.daemon.directory / "log").glob("*-mnt-path.log")
    records = [r for r in read_log(log) if r.get("path") == "/new"]
    assert running.container.id in {r.get("container") for r in records}
    running.detach("/mnt/path")
    assert not list((running.daemon.directory / "runtime/attached").iterdir())
    assert (source / "new").read_text() == "x\n"
    log.unlink()


def test_symbolic_links_at_the_destination_stay_inside(
    running: Running, volume: str, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    running(f"ln -s /data /mnt/link; ln -s ../../../..{outside} /mnt/outside")
    running(f"mkdir -p {outside}/place")
    running.attach(f"{volume}:/mnt/link")
    assert running("cat /data/from-host") == "made on the host"
    running.attach(f"{volume}:/mnt/outside/place")
    assert running(f"cat {outside}/place/from-host") == "made on the host"
    assert list(outside.iterdir()) == []
    running.detach("/mnt/link")
    running.detach("/mnt/outside/place")
    assert running(f"cat /data/original; ls {outside}/place") == ORIGINAL.strip()
    running("rm /mnt/link /mnt/outside")


def test_what_is_in_use_stays_unless_lazily(running: Running, volume: str, source: Path) -> None:
    running.attach(f"{volume}:/mnt/busy")
    running("mkfifo /tmp/go; (read x </tmp/go; echo late; sync) >>/mnt/busy/log & true")
    said = running.refused("detach", running.target, "/mnt/busy")
    assert "/mnt/busy" in said
    assert "in use: used by processes" in said
    assert "--lazy" in said
    assert running.daemon.references(volume) == {f"{running.container.id}:/mnt/busy": 1}
    running.detach("/mnt/busy", "--lazy")
    assert running("ls -A /mnt/busy") == ""
    running("echo >/tmp/go; rm /tmp/go")
    wait_until(lambda: (source / "log").read_text() == "late\n", "what was open goes on")


def test_what_is_attached_is_listed(running: Running, volume: str) -> None:
    assert running.fusevol("attach", "--list") == "no volumes are attached\n"
    running.attach(f"{volume}:/data")
    running.attach(f"{volume}/inner:/mnt/inner:ro")
    first, second = running.listed()
    since = first.pop("since")
    assert since < second.pop("since")
    name = running.target if running.target.startswith("pid:") else running.container.name
    assert first == {
        "target": running.target, "container": running.container.id, "name": name,
        "pid": running.container.pid, "volume": volume, "source": volume,
        "destination": "/data", "read_only": False,
    }  # fmt: skip
    assert (second["source"], second["read_only"]) == (f"{volume}/inner", True)
    text = running.fusevol("attach", "--list")
    assert f"{running.target}: {volume}/inner at /mnt/inner (read-only)" in text
    running.detach("/data")
    running.detach("/mnt/inner")
    assert running.listed() == []


def test_the_end_of_the_container_ends_it(
    engine_name: str, engine: Engine, daemon: Daemon, volume: str
) -> None:
    with container(engine, f"c{next(_numbers)}") as one:
        running = Running(daemon, one, target_of(engine_name, one))
        running.attach(f"{volume}:/data")
        assert len(running.listed()) == 1
    wait_until(lambda: daemon.references(volume) == {}, "end of the reference")
    assert running.listed() == []
    said = running.refused("attach", running.target, f"{volume}:/data")
    assert re.search("no (Docker |Podman )?container|no process|has exited|not running", said)
