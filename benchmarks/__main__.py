"""`python -m benchmarks`: measures all peers side by side and reports."""

import argparse
import json
import math
import os
import signal
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from benchmarks import report
from benchmarks.bench import Bench, directories
from benchmarks.environment import describe, load_average
from benchmarks.memory import Memory
from benchmarks.peers import DEFAULT, Fusevol, Native, all_peers, find_fusevol, select
from benchmarks.postgres import Postgres
from benchmarks.processes import BenchmarkError
from benchmarks.results import Failure, Notes, Results
from benchmarks.startup import Startup
from benchmarks.workloads import Clients, Git, Ops, Sqlite, Tree, Workload

WORKLOADS: Final[tuple[Workload, ...]] = (
    Ops(),
    Clients(),
    Git(),
    Tree(),
    Sqlite(),
    Postgres(),
    Memory(),
    Startup(),
)

_DEFAULT_NOTES: Final = Path(__file__).with_name("notes.toml")
_INTERRUPTED: Final = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        workloads = _chosen_workloads(options.only)
        fusevol = find_fusevol(options.fusevol)
        peers = select(all_peers(fusevol, tuple(options.fusevol_option)), options.peers)
        notes = _read_notes(options.notes)
        if options.cpus:
            # Every command inherits it: clients and file systems alike.
            os.sched_setaffinity(0, {int(cpu) for cpu in options.cpus.split(",")})
    except (ValueError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    left_out = {peer.name: why for peer in peers if (why := peer.missing())}
    left_out |= {work.name: why for work in workloads if (why := work.missing())}
    for name, why in left_out.items():
        _say(f"{name} left out: {why}")
    results = Results([peer for peer in peers if peer.name not in left_out])
    workloads = [workload for workload in workloads if workload.name not in left_out]
    rounds = {
        workload.name: 1 if options.quick else options.rounds or workload.rounds
        for workload in workloads
    }
    interrupt = _Interrupt()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    complete = True
    environment: dict[str, str] = {}
    try:
        with directories(
            options.source_dir,
            options.log_dir,
            options.disk_dir,
            quick=options.quick,
            timeout=options.timeout,
        ) as bench:
            environment = describe(bench, fusevol)
            for workload in workloads:
                _measure(bench, workload, rounds[workload.name], results)
            environment["load average at the end"] = load_average()
    except KeyboardInterrupt:
        complete = False
    except (BenchmarkError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    made = report.Report(results, environment, left_out, rounds, options.quick, complete, notes)
    if options.json:
        report.write(options.json, json.dumps(made.as_json(), indent=1) + "\n")
    if complete or options.markdown:
        report.write(options.markdown, made.as_markdown())
    if not complete:
        return _INTERRUPTED
    # What fails in another's file system is its affair, and in the report.
    ours = {peer.name for peer in peers if isinstance(peer, Native | Fusevol)}
    return 1 if any(failure.peer in ours for failure in results.failures) else 0


def _measure(bench: Bench, workload: Workload, rounds: int, results: Results) -> None:
    """All rounds of one workload. Every round has every peer, each time beginning with another."""
    peers = [peer for peer in results.peers if workload.accepts(peer)]
    if not peers:
        return
    try:
        workload.setup(bench)
    except (BenchmarkError, OSError) as error:
        _say(f"{workload.name}  not set up: {error}")
        results.failures.append(Failure(workload.name, "native", 0, f"not set up: {error}"))
        return
    results.workloads.append(workload)
    for number in range(rounds):
        turn = number % len(peers)
        for peer in peers[turn:] + peers[:turn]:
            if any((f.workload, f.peer) == (workload.name, peer.name) for f in results.failures):
                continue  # It would fail again, perhaps after a long wait.
            start = time.monotonic()
            try:
                results.add(workload, peer, workload.measure(bench, peer))
                outcome = ""
            except (BenchmarkError, OSError) as error:
                outcome = f"  failed: {error}"
                results.failures.append(Failure(workload.name, peer.name, number + 1, str(error)))
            took = time.monotonic() - start
            _say(f"{workload.name} {number + 1}/{rounds}  {peer.name}  {took:.1f} s{outcome}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures fusevol beside the host directory itself, bindfs and LoggedFS.",
        epilog="Without --markdown the report goes to stdout. Progress goes to stderr.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one round of little work: does everything run?")
    add("--rounds", type=_positive, help="rounds of every workload (default: its own, 1 to 5)")
    add("--only", metavar="NAME,...", help=f"of {', '.join(w.name for w in WORKLOADS)}")
    add(
        "--peers",
        metavar="NAME,...",
        default=DEFAULT,
        help=f"patterns for {', '.join(p.name for p in all_peers(None, ()))} (default: {DEFAULT})",
    )
    add("--json", type=Path, metavar="FILE", help="write all values and what follows from them")
    add("--markdown", type=Path, metavar="FILE", help="write the report here")
    add(
        "--notes",
        type=Path,
        metavar="FILE",
        default=_DEFAULT_NOTES,
        help="explanations for the report, TOML (default: benchmarks/notes.toml)",
    )
    add("--source-dir", type=Path, metavar="DIR", help="where sources are made (default: tmpfs)")
    add("--log-dir", type=Path, metavar="DIR", help="where access logs are made (default: tmpfs)")
    add(
        "--disk-dir",
        type=Path,
        metavar="DIR",
        default=Path("/var/tmp"),
        help="where access logs are made that are to be on disk (default: /var/tmp)",
    )
    add("--cpus", metavar="N,...", help="keep clients and file systems on these cores")
    add("--fusevol", metavar="COMMAND", help="how to call fusevol (default: the one of this tree)")
    add(
        "--fusevol-option",
        action="append",
        default=[],
        metavar="ARGUMENT",
        help="pass this to fusevol mount as well; may be repeated (use --fusevol-option=-o)",
    )
    add("--timeout", type=_seconds, default=300.0, help="seconds one command may take (300)")
    return parser


def _chosen_workloads(only: str | None) -> list[Workload]:
    if only is None:
        return list(WORKLOADS)
    known = {workload.name: workload for workload in WORKLOADS}
    names = [name.strip() for name in only.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"no workload is called '{name}': there are {', '.join(known)}")
    return [workload for workload in WORKLOADS if workload.name in names]


def _read_notes(path: Path) -> Notes:
    if path == _DEFAULT_NOTES and not path.exists():
        return {}
    with path.open("rb") as file:
        found = tomllib.load(file)
    for key, table in found.items():
        if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
            raise ValueError(f"{path}: [{key}] must be a table of texts")
    return found


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


class _Interrupt:
    """Ends the run at the first signal; later ones must not disturb the cleaning up."""

    def __init__(self) -> None:
        self.came = False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if not self.came:
            self.came = True
            _say(f"{signal.Signals(number).name}: cleaning up")
            raise KeyboardInterrupt


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
