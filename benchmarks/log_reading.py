"""`python -m benchmarks.log_reading`: how fast the commands that read access logs are.

Makes a log of ten million records (`benchmarks.generate_log`), asks it the questions of
docs/questions.md and others, and writes a report. It lies in the page cache, if there is room.
"""

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import generate_log
from benchmarks.questions import questions

_FUSEVOL: Final = (sys.executable, "-c", "from fusevol.cli.main import main; main()", "log")
_TIMEOUT_S: Final = 600.0
_RESULTS: Final = Path(__file__).with_name("results")

_RECORDS: Final = 10_000_000
_QUESTION_S: Final = 10.0
_SHOW_PER_S: Final = 300_000

_IDLE: Final = 0.9
_LOOK_S: Final = 2.0

_FILTERS: Final = {
    "show --op unlink": ("show", "--op", "unlink"),
    "show --path /project007/src": ("show", "--path", "/project007/src"),
    "show --uid 33 --result failed": ("show", "--uid", "33", "--result", "failed"),
    "show --op rename --json": ("show", "--op", "rename", "--json"),
    "show --op rename --format ecs": ("show", "--op", "rename", "--format", "ecs"),
}
_COMMANDS: Final = {
    "stats": ("stats",),
    "stats --by path": ("stats", "--by", "path"),
    "stats --by process": ("stats", "--by", "process"),
    "stats --by container --op write": ("stats", "--by", "container", "--op", "write"),
    "show --json, all": ("show", "--json"),
    "query 'SELECT count(*) FROM log'": ("query", "SELECT count(*) FROM log"),
}
_OTHERS: Final = {
    "`jq` to select unlink": ("jq", "-c", 'select(.op == "unlink")'),
}

_HEAD: Final = (
    "| what | seconds | fastest | seconds of processor | records/s |\n|---|---|---|---|---|"
)


class Run(NamedTuple):
    wall_s: float
    cpu_s: float


Runs = Mapping[str, list[Run]]
Commands = dict[str, tuple[str, ...]]


def main() -> int:
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="fusevol-log-") as directory:
        log = options.log or _made(Path(directory))
        report = "\n".join(_report(log, options.rounds, options.wait)) + "\n"
    print(report)
    if not options.log:
        path = _RESULTS / time.strftime("%Y-%m-%d-log-reading.md")
        path.write_text(report)
        print(f"written to {path}")
    return 0


def _made(directory: Path) -> Path:
    log = directory / "data.log"
    base = generate_log.load(generate_log.record_work(directory))
    generate_log.write(log, generate_log.scaled(base, _RECORDS))
    return log


def _report(log: Path, rounds: int, wait_s: float) -> Iterator[str]:
    records = _count(log)
    asked = {one.title: one.about(log) for one in questions()}
    filters = {f"`{name}`": (*_FUSEVOL, *words, str(log)) for name, words in _FILTERS.items()}
    commands = {f"`{name}`": (*_FUSEVOL, *words, str(log)) for name, words in _COMMANDS.items()}
    others = {name: (*words, str(log)) for name, words in _OTHERS.items() if shutil.which(words[0])}
    load = os.getloadavg()[0]
    runs = _runs(asked | filters | commands | others, rounds, wait_s)
    yield (
        "# Reading long access logs\n\n"
        "`python -m benchmarks.log_reading`: programs at work on a mount, recorded, and repeated\n"
        "in 400 directories, by 6 users, in 16 containers and on the host. Output to nowhere.\n\n"
        f"{time.strftime('%Y-%m-%d')}, {platform.release()}, "
        f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}; "
        f"load {load:.2f} before, {os.getloadavg()[0]:.2f} after;\n"
        f"{records} records, {log.stat().st_size / records:.0f} bytes each, "
        f"{rounds} rounds, medians\n\n"
        "## Ten questions\n\n"
        "Those of [docs/questions.md](../../docs/questions.md).\n"
    )
    yield from _table(asked, runs, records)
    slowest = max(_median(runs[name]) for name in asked)
    yield f"\nEach in less than {_QUESTION_S:.0f} s: {_verdict(slowest < _QUESTION_S)}."
    yield "\n## `fusevol log show` with a filter\n"
    yield from _table(filters, runs, records)
    per_s = min(records / _median(runs[name]) for name in filters)
    yield f"\nAt least {_SHOW_PER_S:,} records a second: {_verdict(per_s >= _SHOW_PER_S)}."
    yield "\n## Others\n"
    yield from _table(commands | others, runs, records)


def _runs(commands: Commands, rounds: int, wait_s: float) -> Runs:
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, words in commands.items():
            _wait_until_idle(wait_s)
            runs[name].append(_timed(words))
    return runs


def _table(commands: Commands, runs: Runs, records: int) -> Iterator[str]:
    yield _HEAD
    for name in commands:
        some = runs[name]
        wall_s = _median(some)
        cpu_s = statistics.median(run.cpu_s for run in some)
        fastest = min(run.wall_s for run in some)
        yield f"| {name} | {wall_s:.1f} | {fastest:.1f} | {cpu_s:.1f} | {records / wall_s:,.0f} |"


def _median(runs: list[Run]) -> float:
    return statistics.median(run.wall_s for run in runs)


def _verdict(is_reached: bool) -> str:
    return "reached" if is_reached else "**not reached**"


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
    parser.add_argument(
        "log", type=Path, nargs="?", metavar="LOG",
        help="ask this log, and write no report to benchmarks/results",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--wait", type=float, default=0, metavar="SECONDS", help="for an idle machine, at most"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
