"""Kills what serves a volume, again and again, and counts."""

import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple, Self

from fusevol.logagent import status
from fusevol.mounts import registry
from tests.served import fusevol, runs, wait_until

INTERVAL_S: Final = (0.2, 1.0)
"""Shortest and longest time between two deaths."""
_SUCCESSOR_S: Final = 30.0
_AGENT_S: Final = 90.0
"""The longest time that a keeper waits before it starts another agent, and more."""


class Serving(NamedTuple):
    """The processes that serve a volume (0: none), and how often one took over."""

    keeper: int
    worker: int
    restarts: int
    agent: int = 0


class Target(Enum):
    """What is killed, or asked to go."""

    WORKER = "worker"
    KEEPER = "keeper"
    RELOAD = "reload"
    BOTH = "keeper and worker"
    """At once; only `fusevol serve` and `fusevol mount -f` can have a mount go on then."""
    AGENT = "agent"
    AGENT_AND_WORKER = "agent and worker"
    AGENT_AND_KEEPER = "agent and keeper"


TAKEN_OVER: Final = (Target.WORKER, Target.KEEPER, Target.RELOAD)
"""What a mount of `fusevol mount` goes on after."""
WITH_AGENT: Final = (Target.AGENT, Target.AGENT_AND_WORKER, Target.AGENT_AND_KEEPER)
"""As is this, where the log needs an agent."""


class Death(NamedTuple):
    """Something that was killed; `at` is in seconds of CLOCK_MONOTONIC."""

    target: Target
    at: float


def serving_at(mountpoint: Path) -> Serving | None:
    """Return who serves a mount now; what `fusevol status` tells, without its start-up time."""
    entry = registry.get(str(mountpoint))
    if entry is None:
        return None
    agent = status.read(entry.log)
    at_work = agent is not None and runs(agent.pid)
    return Serving(entry.pid, entry.worker, entry.restarts, agent.pid if agent and at_work else 0)


@dataclass
class Killer:
    """Kills one target after the other at random intervals, in a thread of its own.

    Attributes:
        serving: tells who serves the volume now, None if nobody.
        reload: has the volume go on with new code.
        targets: what is killed, in turn.
        deaths: what was killed so far.
    """

    serving: Callable[[], Serving | None]
    reload: Callable[[], object]
    targets: tuple[Target, ...]
    deaths: list[Death] = field(default_factory=list)
    interval_s: tuple[float, float] = INTERVAL_S
    _stop: threading.Event = field(default_factory=threading.Event)
    _failed: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="killer")
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Stop killing; everything that was killed has its successor then.

        Raises:
            AssertionError: a successor did not come.
        """
        self._stop.set()
        self._thread.join()
        if self._failed:
            raise self._failed[0]

    @property
    def has_failed(self) -> bool:
        return bool(self._failed)

    def _run(self) -> None:
        rng = random.Random()
        try:
            while self.targets and not self._stop.wait(rng.uniform(*self.interval_s)):
                self.strike(self.targets[len(self.deaths) % len(self.targets)])
        except BaseException as error:
            self._failed.append(error)

    def strike(self, target: Target) -> None:
        """Kill, and wait for the successor.

        Raises:
            AssertionError: it does not come.
        """
        before = self.serving()
        assert before is not None, "the volume is not served any more"
        if target in WITH_AGENT:
            wait_until(self._has_agent, "the agent of the log", _AGENT_S)
            before = self.serving() or before
        assert before.worker, "the worker ended by itself"
        if target is Target.RELOAD:
            at = time.monotonic()
            self.reload()
        else:
            at = _kill(*_victims(target, before))
        self.deaths.append(Death(target, at))
        wait_until(
            lambda: self._has_successor(target, before),
            f"successor after {target.value} no. {len(self.deaths)} of {before}",
            _AGENT_S if target in WITH_AGENT else _SUCCESSOR_S,
        )  # fmt: skip

    def _has_agent(self) -> bool:
        now = self.serving()
        return now is not None and now.agent != 0

    def _has_successor(self, target: Target, before: Serving) -> bool:
        now = self.serving()
        if now is None or (target in WITH_AGENT and now.agent in (0, before.agent)):
            return False
        if target is Target.AGENT:
            return True
        # There is no worker while the next one is delayed.
        if now.restarts <= before.restarts or now.worker in (0, before.worker):
            return False
        return now.keeper not in _victims(target, before)


def killer_at(
    mountpoint: Path, targets: tuple[Target, ...], interval_s: tuple[float, float]
) -> Killer:
    """Return a killer of what serves a mount of `fusevol mount`."""
    return Killer(
        lambda: serving_at(mountpoint), lambda: fusevol("reload", mountpoint), targets,
        interval_s=interval_s,
    )  # fmt: skip


def _victims(target: Target, serving: Serving) -> tuple[int, ...]:
    return {
        Target.WORKER: (serving.worker,), Target.KEEPER: (serving.keeper,), Target.RELOAD: (),
        # The keeper first, as it would start a successor.
        Target.BOTH: (serving.keeper, serving.worker),
        Target.AGENT: (serving.agent,), Target.AGENT_AND_WORKER: (serving.agent, serving.worker),
        Target.AGENT_AND_KEEPER: (serving.agent, serving.keeper),
    }[target]  # fmt: skip


def _kill(*pids: int) -> float:
    """Kill processes, and wait until they are dead; return when."""
    fds = [os.pidfd_open(pid) for pid in pids]
    try:
        for fd in fds:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        at = time.monotonic()
        for pid, fd in zip(pids, fds, strict=True):
            assert select.select([fd], [], [], _SUCCESSOR_S)[0], f"{pid} did not die"
    finally:
        for fd in fds:
            os.close(fd)
    return at
