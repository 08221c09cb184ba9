"""What all workloads have in common: programs that run on a directory until their time is over.

Each is a module of its own: `python -m tests.crash.NAME DIRECTORY SCRATCH SECONDS`. It makes
DIRECTORY, prints figures as one line of JSON, and ends with status 1 and a message if anything was
not as it has to be. A file `stop` beside SCRATCH ends it early.
"""

import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Figures = dict[str, float]


@dataclass(frozen=True)
class Place:
    """Where a workload runs, and how long.

    Attributes:
        directory: on the volume.
        scratch: outside of it.
        until: the end, in seconds of CLOCK_MONOTONIC.
    """

    directory: Path
    scratch: Path
    until: float

    def goes_on(self) -> bool:
        return time.monotonic() < self.until and not self.stop.exists()

    @property
    def stop(self) -> Path:
        return self.scratch.with_name("stop")


def main(work: Callable[[Place], Figures]) -> None:
    """Run a workload as the command line says."""
    directory, scratch, seconds = sys.argv[1:]
    # So that what a workload has started ends with it.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit("ended before its time"))
    place = Place(Path(directory), Path(scratch), time.monotonic() + float(seconds))
    try:
        place.directory.mkdir()
        place.scratch.mkdir()
        figures = work(place)
    except AssertionError as error:
        sys.exit(str(error))
    finally:
        # One that failed ends the others, too; at the end of its time it changes nothing.
        place.stop.touch()
    sys.stdout.write(json.dumps(figures) + "\n")
