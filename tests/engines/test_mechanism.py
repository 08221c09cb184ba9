"""What it means that a volume is bound into a container, on each engine alike."""

import itertools
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.engines.daemon import PLUGIN_SOCKET
from tests.engines.docker import docker_daemon
from tests.engines.engines import (
    Container,
    DockerBind,
    DockerPlugin,
    Engine,
    PodmanBind,
    PodmanPlugin,
    Run,
    Volume,
    container,
)
from tests.engines.image import Image
from tests.engines.machine import mounts
from tests.engines.podman import podman_with
from tests.engines.rootfs import ORIGINAL
from tests.served import needs_root
from tests.turns import ONE_PLUGIN

pytestmark = [needs_root, ONE_PLUGIN]

ENGINES: Final = (
    "docker-bind", "podman-bind-crun", "podman-bind-runc",
    "docker", "podman-crun", "podman-runc", "run",
)  # fmt: skip

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=ENGINES)
def engine(
    request: pytest.FixtureRequest, rootfs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    name: str = request.param
    kind, _, runtime = name.removesuffix("-bind").replace("-bind-", "-").partition("-")
    directory = tmp_path_factory.mktemp(name)
    daemon = None if "bind" in name else request.getfixturevalue("daemon")
    if kind == "docker":
        with docker_daemon(rootfs) as docker:
            yield DockerPlugin(docker, daemon) if daemon else DockerBind(docker, directory)
    elif kind == "podman":
        with podman_with(runtime, rootfs, PLUGIN_SOCKET) as podman:
            yield PodmanPlugin(podman, daemon) if daemon else PodmanBind(podman, directory)
    else:
        assert daemon
        yield Run(daemon, request.getfixturevalue("oci_image"), directory / "committed")


@pytest.fixture
def volume(engine: Engine, source: Path) -> Iterator[Volume]:
    volume = engine.add_volume(f"v{next(_numbers)}", source)
    yield volume
    engine.drop_volume(volume)


@pytest.fixture
def bound(engine: Engine, volume: Volume) -> Iterator[Container]:
    """A container that has the volume at /data, where its image has a file."""
    with container(engine, f"c{next(_numbers)}", f"{volume.word}:/data") as running:
        yield running


@pytest.fixture
def trace(engine: Engine) -> Iterator[Path]:
    """Where the system calls are written down that make the root file system of a container."""
    engine.trace.mkdir()
    yield engine.trace
    shutil.rmtree(engine.trace)


def mount_calls(trace: Path, volume: Volume) -> list[str]:
    """Return the calls that bind the volume or change the root, in their order in time."""
    lines = [line for file in trace.iterdir() for line in file.read_text().splitlines()]
    done = sorted(line.split(maxsplit=2)[1:] for line in lines if line.endswith("= 0"))
    binds = ("pivot_root(", "move_mount(", f'mount("{volume.mount_point}"')
    return [call for _time, call in done if call.startswith(binds)]


def test_a_file_of_the_host_is_seen_in_the_container(bound: Container, source: Path) -> None:
    assert bound("cat /data/from-host") == "made on the host"
    (source / "later").write_text("made while it runs")
    assert bound("cat /data/later") == "made while it runs"


def test_a_new_file_of_the_container_is_seen_on_the_host(bound: Container, source: Path) -> None:
    bound("mkdir /data/directory; echo made inside >/data/directory/file")
    assert (source / "directory/file").read_text() == "made inside\n"
    bound("mv /data/directory/file /data/moved; chmod 604 /data/moved")
    assert (source / "moved").stat().st_mode & 0o777 == 0o604
    assert list((source / "directory").iterdir()) == []


def test_a_single_file_can_be_a_volume(engine: Engine, tmp_path: Path) -> None:
    source = tmp_path / "settings"
    source.write_text("from the host\n")
    volume = engine.add_volume(f"v{next(_numbers)}", source)
    with container(engine, f"c{next(_numbers)}", f"{volume.word}:/etc/settings") as running:
        assert running("cat /etc/settings") == "from the host"
        running("echo from inside >>/etc/settings")
        assert running("grep -c root: /etc/passwd") == "1", "what is beside it is the image's"
        assert source.read_text() == "from the host\nfrom inside\n"
    engine.drop_volume(volume)


def test_the_mount_is_in_no_mount_table_but_the_containers(
    bound: Container, volume: Volume
) -> None:
    (inside,) = [mount for mount in mounts(bound.pid) if mount.point == "/data"]
    assert inside.fstype == "fuse.fusevol"
    outside = [mount.point for mount in mounts() if mount.device == inside.device]
    assert outside == [str(volume.mount_point)]


def test_what_the_image_has_there_is_hidden_untouched_and_back_after_unmounting(
    bound: Container, source: Path
) -> None:
    assert bound("ls /data") == "from-host"
    bound("echo changed >/data/original; rm /data/from-host")
    assert (source / "original").read_text() == "changed\n"
    bound.unmount("/data")
    assert bound("ls /data; cat /data/original") == f"original\n{ORIGINAL.strip()}"
    assert (source / "original").read_text() == "changed\n"


def test_it_is_bound_before_pivot_root_and_the_old_root_is_out_of_reach(
    engine: Engine, volume: Volume, source: Path, trace: Path
) -> None:
    with container(engine, f"c{next(_numbers)}", f"{volume.word}:/data") as running:
        calls = mount_calls(trace, volume)
        pivots = [index for index, call in enumerate(calls) if "pivot_root(" in call]
        binds = [index for index, call in enumerate(calls) if "pivot_root(" not in call]
        assert len(pivots) == 1, calls
        assert binds, calls
        assert max(binds) < pivots[0], calls
        # The root is the root file system, the volume is on it, and nothing else of the host is.
        table = mounts(running.pid)
        (root,) = [mount for mount in table if mount.point == "/"]
        (data,) = [mount for mount in table if mount.point == "/data"]
        assert data.parent == root.id
        assert root.fstype == "overlay"
        host = {(mount.device, mount.root) for mount in mounts() if mount.point == "/"}
        assert host.isdisjoint((mount.device, mount.root) for mount in table)
        assert running(f"cd /../../..; pwd; test -e {source} || echo gone") == "/\ngone"
        assert os.stat(f"/proc/{running.pid}/root").st_dev != os.stat("/").st_dev


def test_a_commit_has_the_empty_mount_point_and_nothing_of_the_volume(
    engine: Engine, volume: Volume, source: Path, tmp_path: Path
) -> None:
    marker = f"marker-{os.urandom(16).hex()}"
    (source / "from-host").write_text(marker)
    image = f"committed{next(_numbers)}"
    with container(engine, f"c{next(_numbers)}", f"{volume.word}:/mnt/volume") as running:
        running("cat /mnt/volume/from-host /mnt/volume/from-host >/mnt/volume/twice")
        running("echo beside >/mnt/beside")
        engine.commit(running.name, image, tmp_path / "image.tar")
    saved = Image(tmp_path / "image.tar")
    assert saved.entries()["mnt/volume"][-1].isdir()
    assert saved.below("/mnt/volume") == []
    assert saved.holders(marker.encode()) == []
    assert saved.content("/mnt/beside") == b"beside\n"
    assert "Volumes" not in saved.config["config"] or not saved.config["config"]["Volumes"]
    shown = engine.run_image(image, "sh", "-c", "ls -A /mnt/volume | wc -l; cat /mnt/beside")
    assert re.fullmatch(r"0\s+beside", shown), shown


def test_each_record_names_the_container(bound: Container, volume: Volume) -> None:
    bound("echo x >/data/from-inside; cat /data/from-inside; rm /data/from-inside")
    records = [
        record for record in bound.engine.records(volume) if record.get("path") == "/from-inside"
    ]
    assert {"create", "write", "open", "read", "unlink"} <= {record["op"] for record in records}
    assert {record.get("container") for record in records if record["op"] != "lookup"} == {bound.id}
