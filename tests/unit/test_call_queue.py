"""Calls that are given up: dropped before they begin, undone when they are back."""

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from fusevol.fuse.call_queue import Call, CallQueue, TooLateError
from tests.patience import PATIENCE_S


class Hanging:
    """Something to call that hangs until it is released."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.released = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.released.wait(PATIENCE_S)
        return "result"


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    hanging = Hanging()
    yield hanging
    hanging.released.set()


@pytest.fixture
def lock() -> threading.Lock:
    return threading.Lock()


def lane(most: int) -> CallQueue:
    def soon(_call: Callable[[], object]) -> None:
        raise AssertionError("nobody waits")

    return CallQueue(most, soon)


def back(call: Call) -> bool:
    return any(call.is_back_soon() for _ in range(10_000))


def test_results_and_errors_come_back(lock: threading.Lock) -> None:
    one = lane(1)
    fine, failing = Call(lambda: 5, lock), Call(lambda: 1 // 0, lock)
    for call in (fine, failing):
        one.put(call)
        assert back(call)
    assert fine.result() == 5
    with pytest.raises(ZeroDivisionError):
        failing.result()


def test_what_has_begun_is_undone_when_it_is_back(lock: threading.Lock, hanging: Hanging) -> None:
    undone: list[str] = []
    over = threading.Event()
    call = Call(hanging, lock, rollback=undone.append)
    lane(1).put(call)
    assert hanging.begun.wait(PATIENCE_S)
    with pytest.raises(TooLateError) as raised:
        call.result()
    assert raised.value.call is call
    assert call.is_late
    call.when_over(over.set)
    assert (over.is_set(), undone) == (False, [])
    hanging.released.set()
    assert over.wait(PATIENCE_S)
    assert undone == ["result"]
    now: list[int] = []
    call.when_over(partial(now.append, 1))
    assert now == [1]


@pytest.mark.parametrize("must_run", [False, True])
def test_what_has_not_begun_is_dropped_unless_it_must_run(
    lock: threading.Lock, hanging: Hanging, must_run: bool
) -> None:
    ran: list[int] = []
    one = lane(1)
    first = Call(hanging, lock)
    second = Call(partial(ran.append, 1), lock, must_run=must_run)
    third = Call(lambda: None, lock)
    one.put(first)
    one.put(second)
    assert hanging.begun.wait(PATIENCE_S)
    with pytest.raises(TooLateError):
        second.result()
    assert second.is_late is must_run
    hanging.released.set()
    one.put(third)
    assert back(third)
    assert ran == ([1] if must_run else [])


def test_a_call_that_hangs_takes_one_of_many_threads(lock: threading.Lock) -> None:
    hangs = [Hanging(), Hanging()]
    many = lane(3)
    for hanging in hangs:
        many.put(Call(hanging, lock))
        assert hanging.begun.wait(PATIENCE_S)
    for _ in range(20):
        call = Call(lambda: 1, lock)
        many.put(call)
        assert back(call)
    for hanging in hangs:
        hanging.released.set()


def test_an_error_of_undoing_ends_nothing(lock: threading.Lock, hanging: Hanging) -> None:
    over = threading.Event()

    def fail(_result: object) -> None:
        raise OSError

    call = Call(hanging, lock, rollback=fail)
    one = lane(1)
    one.put(call)
    assert hanging.begun.wait(PATIENCE_S)
    with pytest.raises(TooLateError):
        call.result()
    call.when_over(over.set)
    hanging.released.set()
    assert over.wait(PATIENCE_S)
    after = Call(lambda: 1, lock)
    one.put(after)
    assert back(after)
