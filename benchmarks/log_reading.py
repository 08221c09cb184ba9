"""`python -m benchmarks.log_reading LOG`: how fast the commands that read access logs are.

LOG comes from `python -m benchmarks.generate_log`. Prints a report in Markdown. The log is read
once before, so that it is in the page cache if there is room.
"""

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

_FUSEVOL: Final = (sys.executable, "-c", "from fusevol.cli.main import main; main()", "log")
_TIMEOUT_S: Final = 600.0

_IDLE: Final = 0.9
_LOOK_S: Final = 2.0

_COMMANDS: Final = {
    "stats": ("stats",),
    "stats --by path": ("stats", "--by", "path"),
    "stats --by process": ("stats", "--by", "process"),
    "stats --by container --op write": ("stats", "--by", "container", "--op", "write"),
    "show --op unlink": ("show", "--op", "unlink"),
    "show --path /project007/src": ("show", "--path", "/project007/src"),
    "show --uid 33 --result failed": ("show", "--uid", "33", "--result", "failed"),
    "show --op rename --json": ("show", "--op", "rename", "--json"),
    "show --op rename --format ecs": ("show", "--op", "rename", "--format", "ecs"),
    "show --json, all": ("show", "--json"),
}
_OTHERS: Final = {
    "`jq` to select unlink": ("jq", "-c", 'select(.op == "unlink")'),
}


class Run(NamedTuple):
    wall_s: float
    cpu_s: float


def main() -> int:
    options = _parser().parse_args()
    records = _count(options.log)
    commands = {f"`{name}`": (*_FUSEVOL, *words) for name, words in _COMMANDS.items()}
    commands |= {name: words for name, words in _OTHERS.items() if shutil.which(words[0])}
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    load = os.getloadavg()[0]
    for _ in range(options.rounds):
        for name, words in commands.items():
            _wait_until_idle(options.wait)
            runs[name].append(_timed((*words, str(options.log))))
    print(
        f"{platform.release()}, {len(os.sched_getaffinity(0))} cores, "
        f"Python {platform.python_version()}; load {load:.2f} before, {os.getloadavg()[0]:.2f} "
        f"after;\n{records} records, {options.log.stat().st_size / records:.0f} bytes each, "
        f"{options.rounds} rounds, medians\n"
    )
    print("| what | seconds | fastest | seconds of processor | records/s |\n|---|---|---|---|---|")
    for name, some in runs.items():
        wall_s = statistics.median(run.wall_s for run in some)
        cpu_s = statistics.median(run.cpu_s for run in some)
        fastest = min(run.wall_s for run in some)
        print(f"| {name} | {wall_s:.1f} | {fastest:.1f} | {cpu_s:.1f} | {records / wall_s:,.0f} |")
    return 0


def _count(log: Path) -> int:
    with log.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _wait_until_idle(most_s: float) -> None:
    """Wait until others leave the processors alone for two seconds, but no longer than told."""
    end = time.monotonic() + most_s
    while time.monotonic() < end:
        before = _idle_s()
        time.sleep(_LOOK_S)
        if _idle_s() - before > _IDLE * _LOOK_S * (os.cpu_count() or 1):
            return


def _idle_s() -> float:
    """Return how long all processors together have been idle (proc_uptime(5))."""
    return float(Path("/proc/uptime").read_text().split()[1])


def _timed(command: tuple[str, ...]) -> Run:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=_TIMEOUT_S)
    wall_s = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.log_reading", description=__doc__)
    parser.add_argument("log", type=Path, metavar="LOG")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--wait", type=float, default=0, metavar="SECONDS", help="for an idle machine, at most"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
