"""Starts workloads and waits for them; none outlives its run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.crash.workload import Figures

_LATE_S: Final = 180.0
"""How long workloads may go on checking after their time."""
_END_S: Final = 10.0
_POLL_S: Final = 0.05
_ROOT: Final = Path(__file__).parents[2]


@dataclass
class Workload:
    """A workload that runs, or has ended."""

    name: str
    process: "subprocess.Popen[bytes]"
    output: Path

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def said(self) -> str:
        return self.output.read_text(errors="replace").strip()

    def figures(self) -> Figures:
        """Return what it did.

        Raises:
            AssertionError: it failed, or has not ended; with what it said.
        """
        status = self.process.poll()
        assert status == 0, f"{self.name} ended with {status}: {self.said()}"
        figures: Figures = json.loads(self.said().splitlines()[-1])
        return figures


@contextmanager
def workloads_in(
    volume: Path, scratch: Path, seconds: float, names: Iterable[str]
) -> Iterator[list[Workload]]:
    """Run each workload in `volume`/NAME inside the block; its notes go to `scratch`/NAME."""
    workloads = []
    try:
        for name in names:
            workloads.append(_start(name, volume, scratch, seconds))  # noqa: PERF401  # to be ended
        yield workloads
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            _end(workloads, number)


def _end(workloads: Sequence[Workload], number: signal.Signals) -> None:
    """Send a signal to all that run, and wait until they have ended, but not too long."""
    for workload in workloads:
        if not workload.has_ended:
            os.killpg(workload.process.pid, number)
    end = time.monotonic() + _END_S
    while time.monotonic() < end and not all(workload.has_ended for workload in workloads):
        time.sleep(_POLL_S)


def _start(name: str, volume: Path, scratch: Path, seconds: float) -> Workload:
    words: list[str | Path] = [volume / name, scratch / name, str(seconds)]
    output = scratch / f"{name}.output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", f"tests.crash.{name}", *words], cwd=_ROOT,
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    return Workload(name, process, output)


def await_end(
    workloads: Sequence[Workload], seconds: float, is_hopeless: Callable[[], bool]
) -> None:
    """Wait until all have ended.

    Args:
        seconds: the time that they were given.
        is_hopeless: tells that they will not end.

    Raises:
        AssertionError: they do not end.
    """
    end = time.monotonic() + seconds + _LATE_S
    while running := [workload.name for workload in workloads if not workload.has_ended]:
        assert not is_hopeless(), f"{running} cannot end"
        assert time.monotonic() < end, f"{running} do not end"
        time.sleep(_POLL_S)
