"""`make soak`: all workloads at once on one volume, which is killed again and again.

python -m tests.crash SECONDS [--level LEVEL] [--target worker|keeper|reload]... [WORKLOAD]...
"""

import argparse
import sys

from tests.crash.killer import Target
from tests.crash.run import WORKLOADS, run


def main() -> None:
    """Run, print the figures, and exit with status 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("seconds", type=float)
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--level", choices=("all", "data"), default="all")
    parser.add_argument("--target", action="append", choices=[target.value for target in Target])
    words = parser.parse_args()
    targets = [Target(value) for value in words.target or [target.value for target in Target]]
    done = run(words.seconds, *targets, level=words.level, names=words.workloads)
    sys.stdout.write(f"{done}\n")
    sys.exit(1 if done.wrong else 0)


if __name__ == "__main__":
    main()
