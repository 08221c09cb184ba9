"""Volumes by OCI hook and by CDI, without a plugin: plain runtimes, and Podman with each."""

import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.engines.bundle import Bundle
from tests.engines.daemon import Daemon, plain_daemon
from tests.engines.machine import mounts
from tests.engines.podman import IMAGE, RUNTIMES, Podman, podman_with
from tests.engines.rootfs import ORIGINAL
from tests.engines.shell import Shell
from tests.served import FUSEVOL, needs_root, wait_until

pytestmark = needs_root

ANNOTATION: Final = "io.fusevol.mounts"
CDI_DIRECTORY: Final = Path("/etc/cdi")

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with plain_daemon("idle_timeout = 0.5\n") as daemon:
        yield daemon


@pytest.fixture
def source(source: Path) -> Path:
    (source / "inner").mkdir()
    (source / "inner/file").write_text("inner\n")
    return source


@pytest.fixture
def volume(daemon: Daemon, source: Path) -> Iterator[str]:
    name = daemon.create(f"data{next(_numbers)}", source)
    yield name
    wait_until(lambda: daemon.references(name) == {}, "end of the references")
    daemon.cli("volume", "rm", name)


@pytest.fixture(params=["createContainer", "createRuntime"])
def hooked(request: pytest.FixtureRequest, bundle: Bundle, daemon: Daemon) -> Bundle:
    """A bundle with the hook."""
    bundle.add_hook(
        request.param,
        FUSEVOL,
        "hook",
        "--allow",
        "data*",
        env={"PATH": "/usr/bin:/bin", **daemon.env},
    )
    return bundle


def says_nothing(bundle: Bundle) -> bool:
    """Tell whether the runtime keeps what a hook says for itself."""
    return "crun" in bundle.runtime.name


def test_a_plain_runtime_binds_what_the_annotation_says(
    daemon: Daemon, hooked: Bundle, volume: str, source: Path
) -> None:
    name = "ab" * 32
    hooked.annotate(ANNOTATION, f"{volume}:/data,{volume}/inner:/mnt/inner:ro")
    with hooked.shell(name) as shell:
        assert shell("cat /data/from-host /mnt/inner/file") == "made on the host\ninner"
        shell("echo inside >/data/new")
        assert "Read-only" in shell("echo x >/mnt/inner/new", check=False)
        assert (source / "new").read_text() == "inside\n"
        assert daemon.references(volume) == {name: 2}
        table = mounts(hooked.pid(name))
        (inside,) = [mount for mount in table if mount.point == "/data"]
        assert inside.fstype == "fuse.fusevol"
        below = f"{hooked.directory}/"
        assert [
            m for m in mounts() if m.device == inside.device and m.point.startswith(below)
        ] == []
    assert (hooked.rootfs / "data/original").read_text() == ORIGINAL


def test_a_symbolic_link_in_the_image_leads_nowhere_else(
    hooked: Bundle, volume: str, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (hooked.rootfs / "link").symlink_to(outside)
    hooked.annotate(ANNOTATION, f"{volume}:/link/data")
    text = hooked.run("c1", "cat", "/link/data/from-host", check=False)
    assert list(outside.iterdir()) == []
    # Inside the image the link leads to a path that is not there.
    assert "made on the host" not in text
    assert says_nothing(hooked) or "cannot bind at /link/data" in text


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("data-none:/data", "no volume named data-none"),
        ("secret:/data", "secret is not allowed"),
        ("/etc:/data", "/etc is not allowed"),
        ("/data", "a new volume is not allowed"),
        ("data", "invalid volume 'data'"),
        ("data:relative", "absolute path"),
        ("data:/", "container's root"),
        ("data/../..:/data", "'..'"),
        ("data:/a,data:/a", "two volumes"),
    ],
)
def test_what_cannot_be_bound_ends_the_making_of_the_container(
    daemon: Daemon, bundle: Bundle, volume: str, said: str, answer: str
) -> None:
    env = {"PATH": "/bin", **daemon.env}
    bundle.add_hook("createContainer", FUSEVOL, "hook", "--allow", "data*", env=env)
    bundle.annotate(ANNOTATION, said)
    text = bundle.run("c1", "echo", "started", check=False)
    assert "started" not in text
    assert says_nothing(bundle) or answer in text, text
    assert daemon.references(volume) == {}


@pytest.mark.parametrize("stage", ["createContainer", "createRuntime"])
def test_a_user_namespace_takes_the_hook_of_the_runtime(
    daemon: Daemon, bundle: Bundle, volume: str, stage: str
) -> None:
    mapping = [{"containerID": 0, "hostID": 100_000, "size": 65_536}]
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    bundle.config["linux"] |= {"uidMappings": mapping, "gidMappings": mapping}
    bundle.add_hook(stage, FUSEVOL, "hook", f"{volume}:/data", env={"PATH": "/bin", **daemon.env})
    said = bundle.run("c1", "cat", "/data/from-host", check=False)
    if stage == "createRuntime":
        assert said.strip() == "made on the host"
    else:
        # It runs inside of the namespace, where it has no rights over the host.
        assert "made on the host" not in said
        assert "hook" in said


def test_a_volume_that_goes_idle_while_a_container_is_made_is_bound(
    daemon: Daemon, bundle: Bundle, volume: str, tmp_path: Path
) -> None:
    """The container's mount namespace holds a copy of the mount that ends meanwhile."""
    begun, go = tmp_path / "begun", tmp_path / "go"
    wait = f"echo > {begun}; while [ ! -e {go} ]; do sleep 0.05; done"
    bundle.add_hook("createContainer", "/bin/sh", "-c", wait, env={"PATH": "/usr/bin:/bin"})
    bundle.add_hook(
        "createContainer", FUSEVOL, "hook", f"{volume}:/data",
        env={"PATH": "/usr/bin:/bin", **daemon.env},
    )  # fmt: skip
    with daemon.client() as client, ThreadPoolExecutor(1) as executor:
        client.mount(volume, "earlier")
        making = executor.submit(bundle.run, "c1", "cat", "/data/from-host")
        try:
            wait_until(begun.exists, "making of the container", 30)
            client.unmount(volume, "earlier")
            wait_until(lambda: client.inspect(volume).state == "idle", "end of the mount", 30)
        finally:
            go.touch()
        assert making.result() == "made on the host\n"


def test_without_the_daemon_the_container_is_not_made(bundle: Bundle, tmp_path: Path) -> None:
    env = {"PATH": "/bin", "FUSEVOL_RUNTIME_DIRECTORY": str(tmp_path)}
    bundle.add_hook("createContainer", FUSEVOL, "hook", "data:/data", env=env)
    text = bundle.run("c1", "echo", "started", check=False)
    assert "started" not in text
    assert says_nothing(bundle) or "fusevol serve is not running" in text


@pytest.fixture(scope="module", params=RUNTIMES)
def podman(
    request: pytest.FixtureRequest, rootfs: Path, daemon: Daemon
) -> Iterator[Podman]:  # fmt: skip
    with podman_with(request.param, rootfs, Path("/nowhere")) as podman:
        config = daemon.cli("hook", "--config", "--allow", "data*")
        (podman.hooks_directory / "fusevol.json").write_text(config)
        yield podman


def test_podman_binds_what_the_annotation_says(
    daemon: Daemon, podman: Podman, volume: str, source: Path
) -> None:
    words = [*podman.words, "run", "--interactive", "--name=c1", "--rm",
             f"--annotation={ANNOTATION}={volume}:/data", IMAGE, "sh"]  # fmt: skip
    with Shell(words, podman.env) as shell:
        assert shell("cat /data/from-host") == "made on the host"
        shell("echo inside >/data/new")
        state = podman.inspect("c1")
        assert daemon.references(volume) == {state["Id"]: 1}
    assert (source / "new").read_text() == "inside\n"
    records = [r for r in daemon.records(volume) if r.get("path") == "/new"]
    assert "create" in {r["op"] for r in records}
    assert {r.get("container") for r in records if r["op"] != "lookup"} == {state["Id"]}


def test_podman_binds_a_device_of_cdi(
    daemon: Daemon, podman: Podman, volume: str, source: Path
) -> None:
    made = not CDI_DIRECTORY.exists()
    CDI_DIRECTORY.mkdir(exist_ok=True)
    spec = CDI_DIRECTORY / f"fusevol-test-{time.time_ns()}.json"
    spec.write_text(daemon.cli("cdi", f"{volume}:/data"))
    try:
        assert json.loads(spec.read_text())["kind"] == "fusevol.io/volume"
        said = podman.run(
            "--rm", "--device", f"fusevol.io/volume={volume}", IMAGE, "cat", "/data/from-host"
        )
        assert said == "made on the host"
    finally:
        spec.unlink()
        if made:
            CDI_DIRECTORY.rmdir()


def test_podman_without_the_annotation_is_left_alone(podman: Podman) -> None:
    assert podman.run("--rm", IMAGE, "cat", "/data/original") == ORIGINAL.strip()
