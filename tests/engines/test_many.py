"""Fifty volumes in fifty containers at once, and one volume in all of them: nobody is mixed up."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final, TypeVar

import pytest

from tests.engines.daemon import Daemon
from tests.engines.engines import Container, DockerPlugin, Engine, Run, Volume, container
from tests.served import Record, assert_no_gap_in_numbers, needs_root
from tests.turns import ONE_PLUGIN

pytestmark = [needs_root, ONE_PLUGIN]

COUNT: Final = 50
AT_A_TIME: Final = 8
"""Engines are asked for this many at a time; containers, once there, all act at once."""

TURNS: Final = 8
# Processes come and go in all containers, so that their numbers are those of others soon.
ACT: Final = f"""\
for turn in $(seq {TURNS}); do
    echo {{name}} >/data/file$turn && grep -q {{name}} /data/file$turn || exit 1
    mkdir /shared/{{name}}.$turn && echo $turn >/shared/{{name}}.$turn/file || exit 1
    cat /shared/{{name}}.$turn/file >/dev/null && mv /data/file$turn /data/moved$turn || exit 1
done
"""

T = TypeVar("T")


@pytest.fixture(scope="module", params=("docker", "run"))
def engine(
    request: pytest.FixtureRequest, daemon: Daemon, tmp_path_factory: pytest.TempPathFactory
) -> Engine:
    if request.param == "docker":
        return DockerPlugin(request.getfixturevalue("docker"), daemon)
    image: str = request.getfixturevalue("oci_image")
    return Run(daemon, image, tmp_path_factory.mktemp("run") / "committed")


@contextmanager
def side_by_side(contexts: Sequence[AbstractContextManager[T]]) -> Iterator[list[T]]:
    """Enter contexts at the same time, and leave them so."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        entering = [pool.submit(context.__enter__) for context in contexts]
        wait(entering)
        try:
            yield [one.result() for one in entering]
        finally:
            leaving = [
                pool.submit(context.__exit__, None, None, None)
                for context, one in zip(contexts, entering, strict=True)
                if not one.exception()
            ]
            for one in leaving:
                one.result()


@contextmanager
def volume(engine: Engine, name: str, source: Path) -> Iterator[Volume]:
    source.mkdir()
    volume = engine.add_volume(name, source)
    yield volume
    engine.drop_volume(volume)


@pytest.fixture
def many(engine: Engine, tmp_path: Path) -> Iterator[tuple[list[Container], list[Volume], Volume]]:
    """Containers, the volume of each at /data, and one volume that all have at /shared."""
    # Named after the engine: the log of a volume outlives it.
    kind = type(engine).__name__
    with ExitStack() as stack:
        shared = stack.enter_context(volume(engine, f"{kind}-shared", tmp_path / "shared"))
        making = [volume(engine, f"{kind}-{n}", tmp_path / f"source{n}") for n in range(COUNT)]
        volumes = stack.enter_context(side_by_side(making))
        running = [
            container(engine, f"c{n}x", f"{own.word}:/data", f"{shared.word}:/shared")
            for n, own in enumerate(volumes)
        ]
        yield stack.enter_context(side_by_side(running)), volumes, shared


def containers_in(records: list[Record], prefix: str) -> set[str | None]:
    """Return who is named by records about paths that begin so."""
    about = [record for record in records if record.get("path", "").startswith(prefix)]
    assert {"create", "write", "read", "open"} <= {record["op"] for record in about}
    return {record.get("container") for record in about}


def test_each_record_of_many_containers_names_the_right_one(
    many: tuple[list[Container], list[Volume], Volume],
    engine: Engine,
    daemon: Daemon,
    tmp_path: Path,
) -> None:
    containers, volumes, shared = many
    assert len({one.id for one in containers}) == COUNT
    states = daemon.states()
    assert len({state["worker"] for state in states}) == COUNT + 1
    assert {state["state"] for state in states} == {"serving"}
    references = {state["name"]: sum(state["references"].values()) for state in states}
    assert references == {own.name: 1 for own in volumes} | {shared.name: COUNT}
    with ThreadPoolExecutor(COUNT) as pool:
        list(pool.map(lambda one: one(ACT.format(name=one.name)), containers))
    in_all = engine.records(shared)
    for n, (one, own) in enumerate(zip(containers, volumes, strict=True)):
        records = engine.records(own)
        assert_no_gap_in_numbers(records)
        assert containers_in(records, "/file") == {one.id}
        assert containers_in(in_all, f"/{one.name}.") == {one.id}
        written = sorted(path.name for path in (tmp_path / f"source{n}").glob("moved*"))
        assert written == [f"moved{turn + 1}" for turn in range(TURNS)]
    assert_no_gap_in_numbers(in_all)
