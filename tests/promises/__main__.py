"""`make soak`: volumes with drawn options, to which drawn things happen, for as long as is said.

The seed of what fails is printed; with --seed it is done again, and only it.
"""

import argparse
import secrets
import sys
import time
from functools import partial
from typing import cast

from hypothesis import seed
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.promises.machine import Machine, soaking
from tests.promises.surroundings import surroundings


def main() -> None:
    """Run; whatever breaks a promise ends it, with the shortest way there."""
    parser = argparse.ArgumentParser(prog="python -m tests.promises", description=__doc__)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, help="as it was printed")
    words = parser.parse_args()
    end = time.monotonic() + words.seconds
    with surroundings() as around:
        while True:
            number = secrets.randbits(32) if words.seed is None else words.seed
            sys.stdout.write(f"--seed {number}\n")
            sys.stdout.flush()
            factory = seed(number)(partial(Machine, around))
            machine = cast("type[RuleBasedStateMachine]", factory)
            run_state_machine_as_test(machine, settings=soaking())
            if words.seed is not None or time.monotonic() > end:
                return


if __name__ == "__main__":
    main()
