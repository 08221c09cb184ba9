"""What whoever stays with a mount holds for it."""

import os

from fusevol.processes.fdstore import FdStore


def test_a_keeper_that_died_before_anyone_took_note_of_it_is_no_keeper() -> None:
    spare = FdStore("/mnt", 0, os.open("/dev/null", os.O_RDWR), os.open("/dev/null", os.O_RDWR))
    assert not spare.is_kept()
    spare.close()
