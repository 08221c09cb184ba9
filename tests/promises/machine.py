"""Draws options, what clients do and what happens, and checks the promises in between."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.promises import checks
from tests.promises.clients import OPERATIONS, Clients, Operation
from tests.promises.events import HAPPENINGS, VICTIMS, Events
from tests.promises.options import OPTIONS, Options
from tests.promises.surroundings import Surroundings
from tests.promises.volume import Volume, prepared, served

SETTINGS: Final = settings(
    max_examples=int(os.environ.get("FUSEVOL_EXAMPLES", "12")),
    stateful_step_count=10,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
"""The same examples in each run; one that fails is not made smaller, which takes many minutes."""


def soaking() -> settings:
    """The settings of a long run: longer ways, other ones each time."""
    return settings(
        SETTINGS, max_examples=20, stateful_step_count=30, derandomize=False,
        phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip


_STALE_S: Final = 1.2
"""How long clients may see what was before a change on the host, at level `data`."""


class Machine(RuleBasedStateMachine):
    """One volume from its beginning to its end."""

    def __init__(self, around: Surroundings) -> None:
        super().__init__()
        self._around = around
        self._parts, self._serving = ExitStack(), ExitStack()
        self._volume: Volume | None = None

    @initialize(options=OPTIONS)
    def serve(self, options: Options) -> None:
        self._volume = self._parts.enter_context(
            prepared(self._around.directory, options, self._around.daemon)
        )
        self.clients = Clients(self._volume)
        self.events = Events(self._volume)
        with self._watched():
            self._serving.enter_context(served(self._volume))

    @property
    def volume(self) -> Volume:
        """What is tried."""
        assert self._volume is not None
        return self._volume

    @rule(operations=OPERATIONS)
    def clients_work(self, operations: list[Operation]) -> None:
        with self._watched():
            if self.events.refuses:
                self.clients.are_refused()
                return
            for operation in operations:
                self.clients.do(operation)

    @rule(operations=OPERATIONS)
    def host_works(self, operations: list[Operation]) -> None:
        if not self.events.source_is_away:
            self.clients.do_on_host(operations)
            self._let_caches_expire()

    @rule(victims=st.lists(st.sampled_from(VICTIMS), min_size=1, max_size=2, unique=True))
    def processes_are_killed(self, victims: list[str]) -> None:
        with self._watched():
            self.events.kill(*victims)

    @rule(name=st.sampled_from(HAPPENINGS))
    def something_happens(self, name: str) -> None:
        with self._watched():
            if name == "source_read_only":
                self.clients.close_all()
            self.events.happen(name)
            self._let_caches_expire()

    @invariant()
    def promises_are_kept(self) -> None:
        if self._volume is None:
            return
        with self._watched():
            if not self.events.refuses:
                checks.check_tree(self.volume)
            self._around.check_theirs()

    def teardown(self) -> None:
        """End the volume, and hold against each other what it has left."""
        if self._volume is None:
            return
        with self._parts:
            with self._serving:
                self.events.undo_all()
                if not self.volume.is_broken:
                    with self._watched():
                        self.volume.await_served()
                        checks.check_receiver(self.volume)
                    self.promises_are_kept()
                self.clients.close_all()
            if not self.volume.is_broken:
                recorded = checks.check_log(self.volume, self.clients, self.events)
                self._around.recorded.update(recorded)
                checks.check_chain(self.volume, self.events)
                self._around.check_theirs()

    def _let_caches_expire(self) -> None:
        if self.volume.level == "data":
            time.sleep(_STALE_S)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.volume.is_broken = True
            raise
