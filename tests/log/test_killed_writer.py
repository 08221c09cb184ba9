"""A writer that is killed within write(2) of a large record leaves half a line; it is mended."""

import json
import mmap
import os
import random
import signal
import time
from pathlib import Path
from typing import Final

import pytest

from fusevol.record.bounds import LONGEST_LINE_BYTES, path_text
from fusevol.record.record import AccessRecord
from tests.log.chained import verified, writer

_CELL_WORDS: Final = 40
_ENOUGH: Final = 3
_PATIENCE_S: Final = 100
_LONGEST_LIFE_S: Final = 0.001
_LARGE: Final = path_text([b"\x01" * 255] * 16)


def _write_and_die(log: Path, chain: bool, cells: memoryview) -> None:
    """Have a process go on with the log, and kill it soon."""
    pid = os.fork()
    if pid == 0:
        try:
            mine = writer(log, chain=chain, cells=cells)
            while True:
                mine.append(AccessRecord(op="rename", path=_LARGE, result="ok", to=_LARGE), 0)
        finally:
            os._exit(1)
    size = log.stat().st_size
    while log.stat().st_size == size:
        pass
    # Whether it dies within a write is left to chance.
    time.sleep(random.uniform(0, _LONGEST_LIFE_S))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("chain", [False, True], ids=["plain", "chained"])
def test_half_a_line_that_a_killed_writer_left_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chain: bool
) -> None:
    monkeypatch.setenv("FUSEVOL_STATE_DIRECTORY", str(tmp_path / "state"))
    torn = turn = longest = 0
    end = time.monotonic() + _PATIENCE_S
    while torn < _ENOUGH:
        assert time.monotonic() < end, f"only {torn} of {turn} died within a write"
        turn += 1
        log = tmp_path / f"access-{turn}.log"
        cells = memoryview(mmap.mmap(-1, 8 * _CELL_WORDS)).cast("Q")
        writer(log, chain=chain, cells=cells).append(AccessRecord(op="mkdir", result="ok"), 0)
        _write_and_die(log, chain, cells)
        torn += log.read_bytes()[-1:] != b"\n"
        successor = writer(log, chain=chain, cells=cells)
        successor.append(AccessRecord(op="rmdir", result="ok"), 0)
        lines = log.read_bytes().splitlines()
        numbers = [json.loads(line)["seq"] for line in lines]
        assert numbers == list(range(1, successor.next_seq))
        longest = max(longest, *map(len, lines))
        successor.close()
        if chain:
            assert verified(log).finding is None
        log.unlink()
    # A writer can also be killed before its first large record is whole.
    assert LONGEST_LINE_BYTES // 2 < longest < LONGEST_LINE_BYTES
