"""Names of containers in `fusevol log tail`, asked from real engines."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fusevol.record.record import AccessRecord, encode
from tests.engines.daemon import Daemon, plain_daemon
from tests.engines.docker import IMAGE as DOCKER_IMAGE
from tests.engines.docker import docker_daemon
from tests.engines.engines import Run, container
from tests.engines.machine import command
from tests.engines.podman import IMAGE as PODMAN_IMAGE
from tests.engines.podman import podman_with
from tests.patience import PROMPT_S
from tests.served import FUSEVOL, needs_root

pytestmark = needs_root

UNKNOWN = "cafe" * 16
NO_ENGINE = {"DOCKER_HOST": "unix:///nowhere/docker.sock", "PATH": "/nowhere"}


@dataclass
class Known:
    """A container that an engine knows, and the environment in which only that engine is found."""

    name: str
    id: str
    env: dict[str, str]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with plain_daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module", params=("docker", "podman", "run"))
def known(
    request: pytest.FixtureRequest, rootfs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Known]:
    """A container; some have names that could be the beginning of an id."""
    nobody = {**NO_ENGINE, "FUSEVOL_STATE_DIRECTORY": "/nowhere"}
    if request.param == "docker":
        with docker_daemon(rootfs) as docker:
            found = docker.cli("create", "--network=none", "--name=web", DOCKER_IMAGE, "true")
            yield Known("web", found, {**nobody, **docker.env})
    elif request.param == "podman":
        with podman_with("runc", rootfs, Path("/nowhere")) as podman:
            found = podman.cli("create", "--name=cafe", PODMAN_IMAGE, "true")
            yield Known("cafe", found, {**nobody, **podman.env, "PATH": os.environ["PATH"]})
    else:
        daemon: Daemon = request.getfixturevalue("daemon")
        image: str = request.getfixturevalue("oci_image")
        with container(Run(daemon, image, tmp_path_factory.mktemp("run")), "db") as one:
            yield Known("db", one.id, {**nobody, **daemon.env})


def line(seq: int, container: str | None) -> bytes:
    record = AccessRecord(
        time=f"2026-11-23T10:00:{seq:02d}.000000Z", seq=seq, volume="data", op="read",
        path=f"/{seq}", result="ok", us=5, uid=0, pid=1, container=container,
    )  # fmt: skip
    return encode(record) + b"\n"


def log_of(directory: Path, *containers: str | None) -> Path:
    path = directory / "access.log"
    path.write_bytes(b"".join(line(seq, one) for seq, one in enumerate(containers, 1)))
    return path


def tail(env: dict[str, str], *words: str | Path) -> list[str]:
    return command(FUSEVOL, "log", "tail", *words, env=env).stdout.splitlines()


def test_the_name_is_shown_beside_the_id(known: Known, tmp_path: Path) -> None:
    log = log_of(tmp_path, known.id, None, UNKNOWN, "lxc-name")
    first, second, third, fourth = tail(known.env, log)
    assert first.endswith(f" pid=1 {known.name}({known.id[:12]})")
    assert second.endswith(" pid=1")
    assert third.endswith(f" pid=1 {UNKNOWN[:12]}")
    assert fourth.endswith(" pid=1 lxc-name")


def test_json_has_the_records_as_they_are(known: Known, tmp_path: Path) -> None:
    log = log_of(tmp_path, known.id, UNKNOWN)
    assert tail(known.env, "--json", log) == log.read_text().splitlines()


def test_records_are_chosen_by_name(known: Known, tmp_path: Path) -> None:
    log = log_of(tmp_path, known.id, None, UNKNOWN, known.id, "lxc-name")

    def numbers(word: str) -> list[str]:
        return [text.split()[3] for text in tail(known.env, "--container", word, log)]

    assert numbers(known.name) == ["/1", "/4"]
    assert numbers("lxc-name") == ["/5"]
    assert numbers("-") == ["/2"]
    assert numbers(known.id[:5]) == numbers(known.id) == ["/1", "/4"]
    assert numbers("cafeca") == ["/3"]
    assert numbers("no-such-name") == []


def test_names_appear_while_a_log_is_followed(known: Known, tmp_path: Path) -> None:
    log = log_of(tmp_path, None)
    with following(known.env, log) as lines:
        assert next(lines).endswith(" pid=1")
        with log.open("ab") as file:
            file.write(line(2, known.id))
        assert next(lines).endswith(f" {known.name}({known.id[:12]})")


@contextmanager
def following(env: dict[str, str], log: Path) -> Iterator[Iterator[str]]:
    with subprocess.Popen(
        [FUSEVOL, "log", "tail", "--follow", log], env={**os.environ, **env}, text=True,
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            yield (text.rstrip("\n") for text in process.stdout)
        finally:
            process.terminate()


@pytest.fixture
def silent_docker(tmp_path: Path) -> Iterator[str]:
    """A socket that takes requests and never answers."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "docker.sock"))
        listening.listen()
        yield f"unix://{tmp_path}/docker.sock"


def test_an_engine_that_does_not_answer_delays_nothing_noticeably(
    silent_docker: str, tmp_path: Path
) -> None:
    env = {**NO_ENGINE, "DOCKER_HOST": silent_docker, "FUSEVOL_STATE_DIRECTORY": str(tmp_path)}
    log = log_of(tmp_path, *(f"{number:064x}" for number in range(40)))
    with following(env, log) as lines:
        shown = [next(lines)]
        began = time.monotonic()
        shown += [next(lines) for _ in range(9)]
        with log.open("ab") as file:
            for number in range(41, 60):
                file.write(line(number, f"{number:064x}"))
        shown += [next(lines) for _ in range(19)]
        assert time.monotonic() - began < PROMPT_S / 2
    assert shown[-1].endswith(" pid=1 000000000000")
    began = time.monotonic()
    assert len(tail(env, "-n", "all", log)) == 59
    assert time.monotonic() - began < PROMPT_S / 2


def test_without_engines_nothing_is_made(tmp_path: Path) -> None:
    log = log_of(tmp_path, UNKNOWN)
    env = {**NO_ENGINE, "FUSEVOL_STATE_DIRECTORY": str(tmp_path / "state")}
    assert tail(env, log)[0].endswith(UNKNOWN[:12])
    assert tail(env, "--container", "web", log) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["access.log"]
