"""A container of Docker writes throughout, while workers and `fusevol serve` are killed."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from fusevol.record.record import OK
from tests.crash.container import SCRIPT, count_rounds
from tests.crash.killer import TAKEN_OVER, Death, Killer, Target, serving_at
from tests.engines.daemon import Daemon, daemon
from tests.engines.docker import IMAGE, Docker, docker_daemon
from tests.engines.rootfs import make_rootfs
from tests.served import Record, assert_no_gap_in_numbers, needs_root
from tests.turns import ONE_PLUGIN

pytestmark = [needs_root, ONE_PLUGIN, pytest.mark.timeout(600)]

_TOGETHER_S: Final = 2.0
_ALONE_S: Final = 1.0
_VOLUME: Final = "data"

Change = tuple[str, str, str | None]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    return source


@pytest.fixture
def serve() -> Iterator[Daemon]:
    with daemon() as serve, pytest.MonkeyPatch.context() as patch:
        for name, value in serve.env.items():
            patch.setenv(name, value)
        yield serve


@pytest.fixture
def docker(serve: Daemon, source: Path, tmp_path: Path) -> Iterator[Docker]:
    """A dockerd that knows the volume `data`; both are gone in the end."""
    with docker_daemon(make_rootfs(tmp_path / "rootfs")) as docker:
        docker.cli("volume", "create", "--driver=fusevol", f"--opt=source={source}", _VOLUME)
        yield docker
        if names := docker.cli("ps", "--all", "--quiet").split():
            docker.cli("rm", "--force", *names)
        docker.cli("volume", "rm", _VOLUME)


def test_a_container_writes_on(serve: Daemon, docker: Docker, source: Path) -> None:
    container = docker.run("--detach", f"--volume={_VOLUME}:/data", IMAGE, "sh", "-c", SCRIPT)
    deaths = _kill_meanwhile(serve, lambda: _rounds(source))
    (source / "stop").touch()
    assert docker.cli("wait", container) == "0", docker.cli("logs", container)

    numbers = range(1, count_rounds(source) + 1)

    records = serve.records(_VOLUME)
    assert_no_gap_in_numbers(records)
    assert [r["op"] for r in records].count("restart") == len(deaths)
    assert _changes(records, container) == Counter(
        change for number in numbers for change in _one_round(number)
    )


def _kill_meanwhile(serve: Daemon, rounds: Callable[[], int]) -> list[Death]:
    """Kill workers and keepers all the time, both at once, and `fusevol serve` twice."""
    mountpoint = serve.mount_point(_VOLUME)
    killer = Killer(
        lambda: serving_at(mountpoint), lambda: serve.cli("reload", mountpoint), TAKEN_OVER
    )  # fmt: skip
    killer.strike(Target.BOTH)
    with killer:
        for _time in range(2):
            time.sleep(_TOGETHER_S)
            serve.kill()
            before = rounds()
            time.sleep(_ALONE_S)
            assert rounds() > before, "nothing was written while `fusevol serve` was away"
            serve.start()
        time.sleep(_TOGETHER_S)
    assert {death.target for death in killer.deaths} == {*TAKEN_OVER, Target.BOTH}
    return killer.deaths


def _rounds(source: Path) -> int:
    lines = source / "lines"
    return lines.read_text().count("\n") if lines.exists() else 0


def _one_round(number: int) -> tuple[Change, ...]:
    made = f"/d{number}"
    return (
        ("mkdir", made, None), ("create", f"{made}/f", None), ("rename", made, "/e"),
        ("unlink", "/e/f", None), ("rmdir", "/e", None),
    )  # fmt: skip


def _changes(records: list[Record], container: str) -> Counter[Change]:
    """Return what the container changed by the log, without the file that it appended to."""
    ops = {op for op, _path, _to in _one_round(1)}
    return Counter(
        (record["op"], record["path"], record.get("to")) for record in records
        if record["op"] in ops and record.get("container") == container
        and record["path"] != "/lines" and record["result"] == OK
    )  # fmt: skip
