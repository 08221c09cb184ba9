"""`make soak`: workloads on one volume, and what serves it is ended again and again.

All of the workloads at once and all kinds of ends in turn, unless the command line says which.
"""

import argparse
import sys
from pathlib import Path

from tests.crash.killer import INTERVAL_S, TAKEN_OVER, WITH_AGENT, Target
from tests.crash.run import WORKLOADS, Plan, run


def main() -> None:
    """Run, print the figures, and exit with status 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("seconds", type=float)
    parser.add_argument("workloads", nargs="*", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--level", choices=("all", "data"), default="all")
    parser.add_argument("--target", action="append", choices=[target.value for target in Target])
    parser.add_argument("--interval", nargs=2, type=float, metavar="SECONDS", default=INTERVAL_S,
                        help="shortest and longest time between two ends; below 10 s a mount whose "
                        "keeper and worker are both killed is revived ever later")  # fmt: skip
    parser.add_argument("--evidence", type=Path, metavar="DIR",
                        help="gets the log and the accounts, if anything is wrong")  # fmt: skip
    parser.add_argument("--options", default="chain,rotate_size=4M", metavar="OPT,...",
                        help="options of the log (%(default)s)")  # fmt: skip
    parser.add_argument("--no-sink", action="store_true", help="records go to no sink besides")
    words = parser.parse_args()
    done = run(Plan(
        words.seconds, tuple(map(Target, words.target or ())) or (*TAKEN_OVER, *WITH_AGENT),
        words.level, tuple(words.workloads or WORKLOADS), tuple(words.interval), words.evidence,
        words.options, not words.no_sink,
    ))  # fmt: skip
    sys.stdout.write(f"{done}\n")
    sys.exit(1 if done.wrong else 0)


if __name__ == "__main__":
    main()
