"""Looking names of containers up without making anybody wait."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from fusevol.containers import names as module
from fusevol.containers.names import ContainerNames
from fusevol.errors import NotFoundError
from fusevol.record.record import AccessRecord
from fusevol.record.text import format_record
from tests.patience import PATIENCE_S, PROMPT_S
from tests.served import wait_until

WEB, DB, NEW = ("4d5e6f70" * 8, "0a1b2c3d" * 8, "ffffffff" * 8)


class Engine:
    """Lists containers when it is let."""

    def __init__(self, **names: str) -> None:
        self.names = {name: container for container, name in names.items()}
        self.asked = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, _timeout_s: float) -> dict[str, str]:
        self.asked += 1
        self.may_answer.wait(PATIENCE_S)
        return dict(self.names)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(web=WEB)
    yield engine
    engine.may_answer.set()


def seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_a_name_is_found(engine: Engine) -> None:
    assert ContainerNames((engine,)).name(WEB) == "web"


def test_nobody_is_asked_about_what_is_no_id(engine: Engine) -> None:
    names = ContainerNames((engine,))
    assert [names.name(word) for word in ("web", "", WEB[:12], WEB.upper())] == [None] * 4
    assert engine.asked == 0


def test_an_engine_that_hangs_delays_all_together_by_half_a_second(engine: Engine) -> None:
    engine.may_answer.clear()
    other = Engine(db=DB)
    names = ContainerNames((engine, other))
    assert 0.4 < seconds(lambda: names.name(WEB)) < PROMPT_S
    assert names.name(DB) == "db"
    assert seconds(lambda: [names.name(f"{number:064x}") for number in range(1000)]) < PROMPT_S
    assert (engine.asked, other.asked) == (1, 1)
    # What comes late is shown from then on.
    engine.may_answer.set()
    wait_until(lambda: names.name(WEB) == "web", "the late answer")


def test_a_container_that_nobody_knows_costs_one_question(engine: Engine) -> None:
    names = ContainerNames((engine,))
    assert seconds(lambda: [names.name(f"{number:064x}") for number in range(1000)]) < PROMPT_S
    assert engine.asked == 1
    assert names.name(WEB) == "web"


def test_a_container_that_is_made_later_is_found(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AGAIN_S", 0.05)
    names = ContainerNames((engine,))
    assert (names.name(WEB), names.name(NEW)) == ("web", None)
    engine.names[NEW] = "new"
    wait_until(lambda: names.name(NEW) == "new", "the new name")


def test_what_stays_unknown_is_asked_for_less_and_less(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AGAIN_S", 0.01)
    names = ContainerNames((engine,))
    end = time.monotonic() + 1
    while time.monotonic() < end:
        names.name(NEW)
        time.sleep(0.001)
    assert 2 < engine.asked < 12


@pytest.mark.parametrize("error", [NotFoundError("not there"), OSError(), ValueError(), KeyError()])
def test_an_engine_that_fails_keeps_no_other_from_answering(
    engine: Engine, error: Exception
) -> None:
    def failing(_timeout_s: float) -> dict[str, str]:
        raise error

    assert ContainerNames((failing, engine)).name(WEB) == "web"


def test_ids_of_a_name(engine: Engine) -> None:
    names = ContainerNames((engine, Engine(web=DB, cafe01=NEW)))
    assert names.ids("web") == sorted((WEB, DB))
    assert names.ids("cafe01") == [NEW]
    assert names.ids("other") == []
    assert names.ids("we") == []


def test_an_id_is_no_name(engine: Engine) -> None:
    names = ContainerNames((engine,))
    assert names.ids(WEB) == names.ids(WEB[:12]) == []
    assert engine.asked == 0


def test_how_a_name_is_shown() -> None:
    def shown(container: str, name: str | None) -> str:
        record = AccessRecord(
            time="2026-11-22T08:00:00.000000Z", seq=1, volume="data", op="read", path="/a.txt",
            result="ok", us=5, uid=0, pid=1, container=container,
        )  # fmt: skip
        return format_record(record, name_of=lambda _id: name).rpartition(" pid=1 ")[2]

    assert shown(WEB, None) == "4d5e6f704d5e"
    assert shown(WEB, "web") == "web(4d5e6f704d5e)"
    assert shown(WEB, "\x1b[2J\nweb one") == r'"\x1b[2J\nweb one"(4d5e6f704d5e)'
