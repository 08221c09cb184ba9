"""Random steps of all kinds of actors, natively and on a volume, until they differ."""

import argparse
import random
import sys

from tests.differential.comparison import serve_and_compare
from tests.mounted.mounting import DISK, workspace


def main() -> None:
    """Compare, print what differs, and exit with status 1 if anything does."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("steps", type=int)
    parser.add_argument("--level", choices=("all", "data"), default="all")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--disk", default=DISK, help="directory to work in (%(default)s)")
    words = parser.parse_args()
    with workspace(words.disk) as base:
        done = serve_and_compare(base, words.level, words.seed, words.steps)
    steps = f"{done.steps} steps, {done.refused} of them refused natively"
    lines = [f"seed {words.seed}, level {words.level}: {steps}", *done.found]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(1 if done.found else 0)


if __name__ == "__main__":
    main()
