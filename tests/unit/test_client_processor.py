"""The serving thread goes where a client is that is alone, and only there."""

import os
from collections.abc import Iterator

import pytest

from fusevol.fuse import client_processor
from fusevol.fuse.client_processor import ClientProcessor

_CLIENT, _OTHER = 4711, 4712


@pytest.fixture
def processors(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, int]]:
    """Where each client runs; a client that is not there has ended."""
    where = dict.fromkeys((_CLIENT, _OTHER), max(os.sched_getaffinity(0)))
    monkeypatch.setattr(client_processor, "processor_of", where.get)
    before = os.sched_getaffinity(0)
    yield where
    assert os.sched_getaffinity(0) == before
    os.sched_setaffinity(0, before)


@pytest.fixture
def clients() -> list[int]:
    """Who was served; the last counts."""
    return [_CLIENT]


@pytest.fixture
def client(processors: dict[int, int], clients: list[int]) -> Iterator[ClientProcessor]:
    client = ClientProcessor(lambda: clients[-1], follows=True)
    yield client
    client.let_go()


def _bound_to(processor: int) -> bool:
    return os.sched_getaffinity(0) == {processor}


def test_who_is_alone_twice_is_followed(
    client: ClientProcessor, processors: dict[int, int]
) -> None:
    everywhere = os.sched_getaffinity(0)
    client.see(is_alone=True)
    assert os.sched_getaffinity(0) == everywhere
    client.see(is_alone=True)
    assert _bound_to(processors[_CLIENT])
    assert not client.is_apart
    processors[_CLIENT] = min(everywhere)
    client.see(is_alone=True)
    assert _bound_to(min(everywhere))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="takes two processors")
@pytest.mark.parametrize("change", ["another client", "more clients", "end", "let go"])
def test_others_set_it_free(
    client: ClientProcessor, processors: dict[int, int], clients: list[int], change: str
) -> None:
    everywhere = os.sched_getaffinity(0)
    for _ in range(2):
        client.see(is_alone=True)
    assert os.sched_getaffinity(0) != everywhere
    if change == "let go":
        client.let_go()
    elif change == "end":
        processors.clear()
        clients.append(_OTHER)
        client.see(is_alone=True)
    else:
        clients.append(_OTHER if change == "another client" else _CLIENT)
        client.see(is_alone=change == "another client")
    assert os.sched_getaffinity(0) == everywhere


def test_where_it_may_not_run_it_does_not_go(
    client: ClientProcessor, processors: dict[int, int]
) -> None:
    everywhere = os.sched_getaffinity(0)
    processors[_CLIENT] = 1 + max(everywhere)
    for _ in range(2):
        client.see(is_alone=True)
    assert os.sched_getaffinity(0) == everywhere
    assert client.is_apart


@pytest.mark.usefixtures("processors")
def test_without_following_it_only_looks(clients: list[int]) -> None:
    everywhere = os.sched_getaffinity(0)
    client = ClientProcessor(lambda: clients[-1], follows=False)
    for _ in range(3):
        client.see(is_alone=True)
    assert os.sched_getaffinity(0) == everywhere
