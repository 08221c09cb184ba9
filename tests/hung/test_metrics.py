"""A log on a file system that hangs holds up no scrape."""

import time
from pathlib import Path

from fusevol.metrics.host import FreeSpace
from tests.hung.source import slow_source
from tests.patience import PROMPT_S
from tests.served import needs_root, wait_until

pytestmark = needs_root


def test_free_space_is_told_without_what_hangs(tmp_path: Path) -> None:
    with slow_source(tmp_path / "slow") as source:
        slow, space = str(source.path), FreeSpace()
        source.stop()
        for _ in range(3):
            began = time.monotonic()
            assert space.of([slow, "/"]).keys() == {"/"}
            assert time.monotonic() - began < PROMPT_S
        source.release()
        wait_until(lambda: slow in space.of([slow, "/"]), "the answer")
