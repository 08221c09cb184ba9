"""What serves a volume is killed again and again, or changes its code; clients see a pause only."""

from typing import Final

import pytest

from tests.crash.killer import TAKEN_OVER, WITH_AGENT, Target
from tests.crash.run import STORM, Plan, run
from tests.served import needs_root

pytestmark = [needs_root, pytest.mark.timeout(600)]

_LONGEST_PAUSE_S: Final = 10.0
"""Far more than it takes, as others may keep the machine busy."""


_CHAINED: Final = "chain,rotate_size=256K"


@pytest.mark.parametrize(
    ("targets", "level", "names", "seconds", "options"),
    [
        ([Target.WORKER], "all", [STORM], 6, ""),
        ([Target.KEEPER], "all", [STORM], 5, ""),
        ([Target.RELOAD], "all", [STORM], 3, ""),
        (list(TAKEN_OVER), "data", [STORM], 5, _CHAINED),
        (list(TAKEN_OVER), "all", ["fio", "git", "sqlite"], 4, _CHAINED),
        ([Target.WORKER], "data", ["fio", "git", "sqlite"], 4, ""),
    ],
    ids=["worker", "keeper", "reload", "in turn", "programs", "programs at level data"],
)
def test_clients_see_a_pause_only(
    targets: list[Target], level: str, names: list[str], seconds: float, options: str
) -> None:
    done = run(Plan(seconds, tuple(targets), level, tuple(names), options=options))
    assert not done.wrong, done
    assert len(done.deaths) >= len(targets), done
    assert all(done.figures.values()), done
    assert max(done.pauses_s) < _LONGEST_PAUSE_S, done


def test_each_record_comes_to_a_sink_whatever_is_killed_with_its_agent() -> None:
    done = run(Plan(8, WITH_AGENT + TAKEN_OVER, options=_CHAINED, sink=True))
    assert not done.wrong, done
    assert done.deaths, done
