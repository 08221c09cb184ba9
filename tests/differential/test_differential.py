"""Users, groups, capabilities and user namespaces have the rights, and the effects, of the host."""

import pytest

from tests.differential.comparison import serve_and_compare
from tests.mounted.mounting import workspace
from tests.served import needs_root

pytestmark = needs_root

_STEPS = 2500


@pytest.mark.parametrize("level", ["all", "data"])
def test_actors_see_and_do_the_same(level: str) -> None:
    with workspace() as base:
        done = serve_and_compare(base, level, 1, _STEPS)
    assert done.found == []
    assert _STEPS // 5 < done.refused < _STEPS
