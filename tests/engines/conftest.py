"""Real engines, with directories of their own, each for one module of tests."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import bundle as bundles
from tests.engines.daemon import PLUGIN_SOCKET, Daemon
from tests.engines.daemon import daemon as serving
from tests.engines.docker import Docker, docker_daemon
from tests.engines.podman import RUNTIMES, Podman, podman_with
from tests.engines.rootfs import make_oci_layout, make_rootfs
from tests.engines.runner import Runner, runner_of

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of busybox. Not to be changed."""
    return make_rootfs(tmp_path_factory.mktemp("image") / "rootfs")


@pytest.fixture(scope="session")
def oci_image(rootfs: Path) -> str:
    """An image made of it, as `oci:DIR:TAG`."""
    return make_oci_layout(rootfs, rootfs.with_name("layout"))


@pytest.fixture(scope="module")
def runner(rootfs: Path) -> Iterator[Runner]:
    """`fusevol run` with directories of its own, without a daemon."""
    with runner_of(rootfs) as runner:
        yield runner


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """`fusevol serve` with the plugin's socket."""
    with serving() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def docker(rootfs: Path) -> Iterator[Docker]:
    """A dockerd of its own."""
    with docker_daemon(rootfs) as docker:
        yield docker


@pytest.fixture(scope="module", params=RUNTIMES)
def podman(request: pytest.FixtureRequest, rootfs: Path) -> Iterator[Podman]:
    """A Podman of its own, with each runtime."""
    with podman_with(request.param, rootfs, PLUGIN_SOCKET) as podman:
        yield podman


@pytest.fixture(params=RUNTIMES)
def bundle(request: pytest.FixtureRequest, rootfs: Path) -> Iterator[bundles.Bundle]:
    """A bundle for each plain runtime."""
    with bundles.bundle_for(request.param, rootfs) as bundle:
        yield bundle


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory of the host with a file in it."""
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / "from-host").write_text("made on the host\n")
    return directory


@pytest.fixture
def volume(daemon: Daemon, source: Path) -> Iterator[str]:
    """A volume of the daemon over `source`; whoever refers to it has to give it back."""
    name = f"v{next(_numbers)}"
    with daemon.client() as client:
        client.create(name, {"source": str(source)})
        yield name
        assert client.inspect(name).references == {}
        client.remove(name)
