"""The volume driver `fusevol` through the commands of Docker and Podman."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from fusevol.options.volume_words import KNOWN
from tests.engines.daemon import PLUGIN_SOCKET, Daemon
from tests.engines.docker import IMAGE as DOCKER_IMAGE
from tests.engines.docker import Docker, docker_daemon
from tests.engines.machine import command
from tests.engines.podman import IMAGE as PODMAN_IMAGE
from tests.engines.podman import Podman, podman_with
from tests.engines.rootfs import ORIGINAL
from tests.plugin_client import PODMAN_ID, Plugin
from tests.served import Record, needs_root, wait_until
from tests.turns import ONE_PLUGIN

pytestmark = [needs_root, ONE_PLUGIN]

IMAGES: Final = {Docker: DOCKER_IMAGE, Podman: PODMAN_IMAGE}

COMPOSE: Final = """\
version: "2"
services:
  app:
    image: {image}
    network_mode: none
    command: [sh, -c, "cp /data/file /own/copied; cat /own/copied"]
    volumes: ["data:/data", "own:/own"]
volumes:
  data:
    driver: fusevol
    driver_opts: {{source: "{source}", record: data, ro: "true"}}
  own:
    driver: fusevol
"""

Engine = Docker | Podman


@pytest.fixture(scope="module", params=["docker", "podman-crun", "podman-runc"])
def engine(request: pytest.FixtureRequest, daemon: Daemon, rootfs: Path) -> Iterator[Engine]:
    kind, _, runtime = request.param.partition("-")
    if kind == "docker":
        with docker_daemon(rootfs) as docker:
            yield docker
    else:
        with podman_with(runtime, rootfs, PLUGIN_SOCKET) as podman:
            yield podman


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("content\n")
    return source


@pytest.fixture(autouse=True)
def _clean(engine: Engine, daemon: Daemon) -> Iterator[None]:
    yield
    if names := engine.cli("ps", "--all", "--quiet").split():
        remove(engine, *names)
    if names := engine.cli("volume", "ls", "--quiet").split():
        engine.cli("volume", "rm", *names)
    assert daemon.volumes() == []
    assert "Traceback" not in daemon.messages()
    for log in (daemon.directory / "log").iterdir():
        log.unlink()


def image(engine: Engine) -> str:
    return IMAGES[type(engine)]


def remove(engine: Engine, *names: str) -> None:
    """Remove containers, also running ones."""
    at_once = ("--time=0",) if isinstance(engine, Podman) else ()
    engine.cli("rm", "--force", "--volumes", *at_once, *names)


def create(engine: Engine, name: str, *options: str | Path) -> str:
    words = [f"--opt={option}" for option in options]
    return engine.cli("volume", "create", "--driver=fusevol", *words, name)


def volume(engine: Engine, name: str) -> dict[str, Any]:
    """Return what `volume inspect` tells."""
    (found,) = json.loads(engine.cli("volume", "inspect", name))
    return dict(found)


def listed(engine: Engine) -> dict[str, str]:
    """Return volumes and their drivers, as `volume ls` has them."""
    lines = engine.cli("volume", "ls", "--format", "{{.Name}} {{.Driver}}").splitlines()
    return dict(line.split(" ") for line in lines)


def containers(records: list[Record], op: str, path: str) -> set[str | None]:
    return {r.get("container") for r in records if (r["op"], r.get("path")) == (op, path)}


def test_a_volume_with_options(engine: Engine, daemon: Daemon, source: Path) -> None:
    options = (f"source={source}", "record=data", "ro=true")
    assert create(engine, "data", *options) == "data"
    assert daemon.inspect("data").items() >= {
        "source": str(source), "record": "data", "read_only": True, "anonymous": False,
    }.items()  # fmt: skip
    assert listed(engine) == {"data": "fusevol"}
    found = volume(engine, "data")
    assert (found["Name"], found["Driver"]) == ("data", "fusevol")
    assert found["Options"] == dict(option.split("=") for option in options)
    assert found["Status"]["state"] == "idle"
    assert found["Status"]["source"] == str(source)
    run = ("--rm", "--volume=data:/data", image(engine), "sh", "-c")
    assert engine.run(*run, "cat /data/file") == "content"
    assert "Read-only file system" in engine.refused(
        "run", "--network=none", *run, "echo x >/data/new"
    )
    assert sorted(path.name for path in source.iterdir()) == ["file"]
    engine.cli("volume", "rm", "data")
    assert listed(engine) == {}
    assert source.exists()


def test_unknown_options_are_refused_with_the_known_ones(engine: Engine, daemon: Daemon) -> None:
    said = engine.refused("volume", "create", "--driver=fusevol", "--opt=colour=red", "data")
    assert f"unknown volume option 'colour'; known are {', '.join(KNOWN)}" in said
    said = engine.refused("volume", "create", "--driver=fusevol", "--opt=source=/nowhere", "data")
    assert "/nowhere does not exist" in said
    assert "Traceback" not in said
    assert daemon.volumes() == []


def test_a_volume_of_the_driver_local_as_compose_files_have_it(
    engine: Engine, daemon: Daemon, source: Path
) -> None:
    create(engine, "data", "type=none", "o=bind,ro", f"device={source}")
    assert daemon.inspect("data").items() >= {"source": str(source), "read_only": True}.items()
    assert engine.run("--rm", "-v", "data:/data", image(engine), "cat", "/data/file") == "content"


def test_a_volume_that_the_run_makes(engine: Engine, daemon: Daemon) -> None:
    words = ["--volume=data:/new"]
    if isinstance(engine, Docker):
        words.append("--volume-driver=fusevol")
    else:
        create(engine, "data")
    engine.run("--name=one", *words, image(engine), "sh", "-c", "echo kept >/new/file")
    assert daemon.references("data") == {}
    engine.cli("rm", "one")
    assert engine.run("--rm", *words, image(engine), "cat", "/new/file") == "kept"
    assert Path(daemon.inspect("data")["source"], "file").read_text() == "kept\n"
    engine.cli("volume", "rm", "data")
    assert not Path(daemon.directory, "state/volumes/data").exists()


def test_what_the_image_has_there_is_copied_into_an_empty_volume(
    engine: Engine, daemon: Daemon, source: Path
) -> None:
    create(engine, "empty")
    create(engine, "full", f"source={source}")
    volumes = ("--volume=empty:/data", "--volume=full:/data2")
    assert engine.run("--rm", *volumes, image(engine), "cat", "/data/original") == ORIGINAL.strip()
    assert Path(daemon.inspect("empty")["source"], "original").read_text() == ORIGINAL
    # The engine's own process copies, not one of the container.
    assert containers(daemon.records("empty"), "create", "/original") == {None}
    assert [path.name for path in source.iterdir()] == ["file"]
    create(engine, "again")
    nocopy = ("--rm", "--volume=again:/data:nocopy", image(engine), "ls", "-A", "/data")
    assert engine.run(*nocopy) == ""


def test_files_are_copied_out_of_and_into_a_container_that_runs(
    engine: Engine, daemon: Daemon, source: Path, tmp_path: Path
) -> None:
    create(engine, "data", f"source={source}")
    engine.run("--detach", "--name=one", "--volume=data:/data", image(engine), "sleep", "60")
    (before,) = daemon.references("data").items()
    for _ in range(2):
        # Docker mounts once more for it, by the id of the container's mount.
        engine.cli("cp", "one:/data/file", tmp_path / "copied")
        assert (tmp_path / "copied").read_text() == "content\n"
        engine.cli("cp", tmp_path / "copied", "one:/data/back")
        assert (source / "back").read_text() == "content\n"
        assert daemon.references("data") == dict([before])
    assert "use" in engine.refused("volume", "rm", "data")
    assert engine.cli("exec", "one", "cat", "/data/back") == "content"
    remove(engine, "one")
    assert daemon.references("data") == {}


def test_two_containers_share_a_volume(engine: Engine, daemon: Daemon, source: Path) -> None:
    create(engine, "data", f"source={source}")
    ids = {
        name: engine.run(
            "--detach", f"--name={name}", "--volume=data:/data", image(engine), "sleep", "60"
        )
        for name in ("one", "two")
    }
    for name in ids:
        engine.cli("exec", name, "sh", "-c", f"echo {name} >/data/{name}")
    assert engine.cli("exec", "two", "cat", "/data/one") == "one"
    if isinstance(engine, Docker):
        assert sorted(daemon.references("data").values()) == [1, 1]
    else:
        # Podman counts itself.
        assert daemon.references("data") == {PODMAN_ID: 1}
    assert volume(engine, "data")["Mountpoint"] == str(daemon.mount_point("data"))
    assert volume(engine, "data")["Status"]["state"] == "serving"
    for name, full in ids.items():
        assert containers(daemon.records("data"), "create", f"/{name}") == {full}
    remove(engine, "one")
    assert engine.cli("exec", "two", "cat", "/data/one") == "one"
    engine.cli("restart", "-t", "0", "two")
    assert engine.cli("exec", "two", "cat", "/data/one") == "one"
    remove(engine, "two")
    assert daemon.references("data") == {}


def test_a_volume_in_more_than_one_place(engine: Engine, daemon: Daemon, source: Path) -> None:
    create(engine, "data", f"source={source}")
    volumes = ("--volume=data:/data", "--volume=data:/other:ro")
    script = "echo x >/data/new; cat /other/new; echo y >/other/new"
    said = engine.refused("run", "--network=none", *volumes, image(engine), "sh", "-c", script)
    assert "Read-only file system" in said
    assert (source / "new").read_text() == "x\n"
    engine.run("--rm", *volumes, image(engine), "true")
    assert daemon.references("data") == {}


def test_a_source_that_is_gone_fails_the_run_and_nothing_else(
    engine: Engine, daemon: Daemon, source: Path
) -> None:
    create(engine, "data", f"source={source}")
    create(engine, "other")
    away = source.rename(source.with_name("away"))
    run = ("--rm", "--volume=data:/new", image(engine), "true")
    assert f"{source} does not exist" in engine.refused("run", "--network=none", *run)
    assert listed(engine) == {"data": "fusevol", "other": "fusevol"}
    assert daemon.references("data") == {}
    away.rename(source)
    engine.run(*run)


def test_many_starts_and_ends(engine: Engine, daemon: Daemon, source: Path) -> None:
    create(engine, "data", f"source={source}")
    engine.cli("create", "--name=one", "--volume=data:/data", image(engine), "cat", "/data/file")
    assert daemon.references("data") == {}
    for _ in range(5):
        assert engine.cli("start", "--attach", "one") == "content"
    wait_until(lambda: daemon.references("data") == {}, "the last unmount")


@pytest.mark.parametrize("engine", ["docker"], indirect=True, scope="module")
class TestDocker:
    """What Docker alone does."""

    def test_anonymous_volumes(self, engine: Docker, daemon: Daemon) -> None:
        words = ("--volume-driver=fusevol", "--volume=/data", DOCKER_IMAGE)
        assert engine.run("--rm", *words, "cat", "/data/original") == ORIGINAL.strip()
        assert daemon.volumes() == []
        engine.run("--name=one", *words, "sh", "-c", "echo x >/data/new")
        (name,) = daemon.volumes()
        assert len(name) == 64
        assert listed(engine) == {name: "fusevol"}
        assert Path(daemon.inspect(name)["source"], "new").read_text() == "x\n"
        engine.cli("rm", "--volumes", "one")
        assert daemon.volumes() == []

    def test_a_compose_file(
        self, engine: Docker, daemon: Daemon, source: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "compose.yaml"
        file.write_text(COMPOSE.format(image=DOCKER_IMAGE, source=source))
        words = ("docker-compose", "--project-name=test", "--file", file)
        assert command(*words, "run", "--rm", "app", env=engine.env).stdout == "content\n"
        assert listed(engine) == {"test_data": "fusevol", "test_own": "fusevol"}
        assert daemon.inspect("test_data").items() >= {
            "source": str(source), "record": "data", "read_only": True,
        }.items()  # fmt: skip
        assert Path(daemon.inspect("test_own")["source"], "copied").read_text() == "content\n"
        command(*words, "down", "--volumes", env=engine.env)
        assert daemon.volumes() == []

    def test_the_option_mount(self, engine: Docker, daemon: Daemon, source: Path) -> None:
        mount = (
            "type=volume,volume-driver=fusevol,source=data,target=/data,"
            f"volume-opt=source={source},volume-opt=ro=true"
        )
        assert engine.run("--rm", "--mount", mount, DOCKER_IMAGE, "cat", "/data/file") == "content"
        assert daemon.inspect("data")["read_only"] is True

    def test_volumes_of_fusevol_are_volumes_of_docker(
        self, engine: Docker, daemon: Daemon, source: Path
    ) -> None:
        daemon.create("data", source)
        assert listed(engine) == {"data": "fusevol"}
        run = ("--rm", "--volume-driver=fusevol", "--volume=data:/data", DOCKER_IMAGE)
        assert engine.run(*run, "cat", "/data/file") == "content"
        # Prune is for the driver local.
        engine.cli("volume", "prune", "--force")
        assert daemon.volumes() == ["data"]
        daemon.cli("volume", "rm", "data")
        assert listed(engine) == {}


@pytest.mark.parametrize("engine", ["podman-crun"], indirect=True, scope="module")
class TestPodman:
    """What Podman alone does."""

    def test_volumes_of_fusevol_are_known_after_a_reload(
        self, engine: Podman, daemon: Daemon, source: Path
    ) -> None:
        daemon.create("data", source)
        assert listed(engine) == {}
        engine.cli("volume", "reload")
        assert listed(engine) == {"data": "fusevol"}
        run = ("--rm", "--volume=data:/data", PODMAN_IMAGE)
        assert engine.run(*run, "cat", "/data/file") == "content"
        daemon.cli("volume", "rm", "data")
        engine.cli("volume", "reload")
        assert listed(engine) == {}

    def test_a_time_limit_of_podmans_own(self, engine: Podman, daemon: Daemon) -> None:
        create(engine, "data", "o=timeout=20")
        assert daemon.volumes() == ["data"]

    def test_volumes_that_podman_mounts_itself(
        self, engine: Podman, daemon: Daemon, source: Path
    ) -> None:
        create(engine, "data", f"source={source}")
        engine.cli("volume", "mount", "data")
        assert daemon.references("data") == {PODMAN_ID: 1}
        assert Path(daemon.mount_point("data"), "file").read_text() == "content\n"
        engine.cli("volume", "unmount", "data")
        assert daemon.references("data") == {}

    def test_what_a_reboot_left_mounted_is_mounted_again(
        self, engine: Podman, daemon: Daemon, source: Path
    ) -> None:
        create(engine, "data", f"source={source}")
        # Podman forgets what it had mounted, and begins anew.
        Plugin(PLUGIN_SOCKET).do("Mount", Name="data", ID=PODMAN_ID)
        run = ("--rm", "--volume=data:/data", PODMAN_IMAGE)
        assert engine.run(*run, "cat", "/data/file") == "content"
