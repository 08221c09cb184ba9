"""`python -m benchmarks.logging_cost`: what counters, filters and gathering cost, and save.

Serves one directory on tmpfs for each way to log, all at the same time, and does the same calls on
each in turn. What is told is the processor time of the worker for one call, which other work on the
machine hardly touches, and the time that a client takes, which it does; medians over rounds. All of
it runs on one processor, where the worker does not look for requests while it waits.

With `--base COMMIT` also as the code of that commit does it. Prints a report in Markdown.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_FUSEVOL: Final = str(Path(sys.executable).with_name("fusevol"))
_ROOT: Final = Path(__file__).parents[1]
_ROUNDS: Final = 15
_CALLS: Final = 1500
_BLOCK: Final = b"x" * 4096

_RULES: Final = "op=write|unlink|rename|create path=*.db|/srv;result=failed"
_WAYS: Final = {
    "all recorded": "",
    "filter that keeps them: path": r"include=path~=fi.e\,*$",
    "filter that keeps them: uid and comm": "exclude=uid=4711|4712;comm=sshd|cron",
    "filter that leaves them out: path": f"include={_RULES}",
    "filter that leaves them out: op": "include=op=mknod",
    "coalesce=1": "coalesce=1",
    "no log": "log=none",
}
_CALL_NAMES: Final = ("pwrite", "pread", "fstat", "open + close")


@dataclass
class Mount:
    """One way to log, and what was measured of it: (worker, client) seconds for each call."""

    name: str
    place: Path
    worker: int
    env: dict[str, str]
    times: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def cpu(self) -> float:
        """Seconds that the worker has run."""
        text = Path(f"/proc/{self.worker}/schedstat").read_text()
        return int(text.split()[0]) / 1e9


def main() -> int:
    options = _parser().parse_args()
    if os.geteuid() != 0:
        print("benchmarks.logging_cost: takes root", file=sys.stderr)
        return 2
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="fusevol-cost-", dir="/dev/shm"))
        )
        mounts = [
            stack.enter_context(_mounted(directory / f"{n}", name, words, {}))
            for n, (name, words) in enumerate(_WAYS.items())
        ]
        if options.base:
            env = {"PYTHONPATH": str(_code_of(options.base, directory / "base"))}
            for name in ("all recorded", "no log"):
                place, then = directory / f"base {name}", f"{name}, at {options.base}"
                mounts.append(stack.enter_context(_mounted(place, then, _WAYS[name], env)))
        for number in range(options.rounds):
            for mount in mounts[number % len(mounts) :] + mounts[: number % len(mounts)]:
                _measure(mount, options.calls)
        print(f"{platform.release()}, one of {os.cpu_count()} cores, ", end="")
        print(f"Python {platform.python_version()}; {options.rounds} rounds of {options.calls}")
        print(f"calls, medians; load {os.getloadavg()[0]:.1f}\n")
        _report(mounts)
    return 0


def _code_of(commit: str, directory: Path) -> Path:
    """Unpack the package as it was."""
    directory.mkdir()
    archive = subprocess.run(
        ["git", "archive", commit, "fusevol"], cwd=_ROOT, capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", directory], input=archive.stdout, check=True)
    return directory


@contextmanager
def _mounted(directory: Path, name: str, words: str, env: dict[str, str]) -> Iterator[Mount]:
    source, place = directory / "source", directory / "mount"
    for path in (source, place, directory / "runtime"):
        path.mkdir(parents=True, mode=0o700)
    env = {**os.environ, **env, "FUSEVOL_RUNTIME_DIRECTORY": str(directory / "runtime")}
    log = ",".join(word for word in (words, f"log={directory / 'log'}") if word)
    log = words if words.startswith("log=") else log
    _run(env, "mount", str(source), str(place), "-o", log)
    try:
        status = json.loads(_run(env, "status", "--json"))
        (place / "file").write_bytes(_BLOCK)
        yield Mount(name, place, status[0]["worker"], env)
    finally:
        _run(env, "unmount", "--lazy", str(place))


def _run(env: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        [_FUSEVOL, *words], env=env, stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    return done.stdout


def _measure(mount: Mount, calls: int) -> None:
    fd = os.open(mount.place / "file", os.O_RDWR)
    works: dict[str, Callable[[int], object]] = {
        "pwrite": lambda n: os.pwrite(fd, _BLOCK, n * 4096),
        "pread": lambda n: os.pread(fd, 4096, n * 4096),
        "fstat": lambda _: os.fstat(fd),
        "open + close": lambda _: os.close(os.open(mount.place / "file", os.O_RDONLY)),
    }
    for name, work in works.items():
        cpu, start = mount.cpu(), time.perf_counter()
        for number in range(calls):
            work(number)
        taken = time.perf_counter() - start
        mount.times.setdefault(name, []).append(((mount.cpu() - cpu) / calls, taken / calls))
    os.close(fd)


def _report(mounts: list[Mount]) -> None:
    print("Microseconds: the worker's processor time for one call (the client's time)\n")
    print("| | " + " | ".join(_CALL_NAMES) + " |\n|---|" + "---|" * len(_CALL_NAMES))
    for mount in mounts:
        cells = []
        for name in _CALL_NAMES:
            cpu, taken = (
                statistics.median(times[n] for times in mount.times[name]) * 1e6 for n in (0, 1)
            )
            cells.append(f"{cpu:.2f} ({taken:.1f})")
        print(f"| {mount.name} | {' | '.join(cells)} |")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.logging_cost",
        description="Measures what counters, filters and gathering cost and save.",
    )
    add = parser.add_argument
    add("--base", metavar="COMMIT", help="measure the code of this commit, too")
    add("--rounds", type=int, default=_ROUNDS, help=f"({_ROUNDS})")
    add("--calls", type=int, default=_CALLS, help=f"of each kind in a round ({_CALLS})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
