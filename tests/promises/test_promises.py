"""A volume keeps its promises whatever it was asked for, and whatever happens to it."""

from functools import partial
from typing import cast

import pytest
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.promises.clients import LOGGED
from tests.promises.machine import SETTINGS, Machine
from tests.promises.surroundings import surroundings
from tests.served import needs_root

pytestmark = needs_root


@pytest.mark.timeout(1800)  # finding the smallest example of a failure takes its time
def test_promises_are_kept_whatever_happens() -> None:
    with surroundings() as around:
        machine = cast("type[RuleBasedStateMachine]", partial(Machine, around))
        run_state_machine_as_test(machine, settings=SETTINGS)
        # What no client did shows nothing: most of what has one record was drawn, and succeeded.
        assert len(around.recorded) > len(LOGGED) / 2, around.recorded
