"""`python -m benchmarks.chain`: what a chained log costs, written and verified.

Prints a report in Markdown; with --markdown into a file. All is on tmpfs, with a key of its own.
Measured in turns, with the chain and without, so that a busy machine hits both.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Final

from benchmarks.environment import load_average
from benchmarks.log_reading import Run, _timed
from fusevol.options.config import MountConfig
from fusevol.options.log import LogOptions
from fusevol.record.record import AccessRecord
from fusevol.recording.opening import open_log
from fusevol.recording.writer import LogWriter

_FUSEVOL: Final = (sys.executable, "-c", "from fusevol.cli.main import main; main()")
_BATCH: Final = 20_000
_CALLS: Final = 10_000
_TIMEOUT_S: Final = 60.0


def main() -> int:
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="fusevol-chain-") as directory:
        os.environ["FUSEVOL_STATE_DIRECTORY"] = f"{directory}/state"
        os.environ["FUSEVOL_RUNTIME_DIRECTORY"] = f"{directory}/run"
        report = "\n".join(_report(Path(directory), options.records, options.rounds))
    if options.markdown is None:
        print(report)
    else:
        options.markdown.write_text(report + "\n")
    return 0


def _report(directory: Path, records: int, rounds: int) -> list[str]:
    load = load_average()
    written = _cost_of_records(directory, rounds)
    calls = _cost_of_calls(directory, rounds) if os.geteuid() == 0 else None
    signing = _cost_of_checkpoints(directory)
    log = directory / "long.log"
    _write(log, records)
    size = log.stat().st_size
    verified = [_verified(log) for _ in range(rounds)]
    single = [_verified(log, "taskset", "-c", "0") for _ in range(rounds)]
    subprocess.run(["zstd", "-q", "--rm", log, "-o", f"{log}.1.zst"], check=True)
    log.touch()
    packed = [_verified(log) for _ in range(rounds)]
    return [
        "# What a chained log costs",
        "",
        _circumstances(records, rounds, load),
        "",
        "| microseconds | without | with the chain | more | fastest: more |",
        "|---|---|---|---|---|",
        _row("a record, made and written (time of the processor)", *written),
        *([_row("pwrite(2) of 4 KiB on a mount, level `all`", *calls)] if calls else []),
        "",
        f"A checkpoint (signed, written, kept): {signing:.0f} microseconds, once a minute at most.",
        "",
        f"`fusevol log verify` of {records} records, {size / records:.0f} bytes each:",
        "",
        "| | seconds | fastest | of processor | records/s | fastest | by second of processor |",
        "|---|---|---|---|---|---|---|",
        _verify_row("one file, all cores", verified, records),
        _verify_row("one file, one core", single, records),
        _verify_row("one file, compressed by zstd", packed, records),
    ]


def _circumstances(records: int, rounds: int, load: str) -> str:
    return (
        f"`python -m benchmarks.chain --records {records} --rounds {rounds}`, "
        f"{time.strftime('%Y-%m-%d', time.gmtime())}; {platform.release()}, "
        f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, all on tmpfs; "
        f"load {load} before, {load_average()} after. Medians of the rounds, and the fastest. "
        f"Where others use the machine, `of processor` tells what it takes by itself."
    )


def _row(what: str, without: list[float], with_: list[float]) -> str:
    a, b = statistics.median(without), statistics.median(with_)
    least = min(with_) - min(without)
    return f"| {what} | {a:.2f} | {b:.2f} | {b - a:.2f} | {least:.2f} |"


def _verify_row(what: str, runs: list[Run], records: int) -> str:
    wall_s = statistics.median(run.wall_s for run in runs)
    cpu_s = statistics.median(run.cpu_s for run in runs)
    fastest = min(run.wall_s for run in runs)
    return (
        f"| {what} | {wall_s:.1f} | {fastest:.1f} | {cpu_s:.1f} | {records / wall_s:,.0f} | "
        f"{records / fastest:,.0f} | {records / cpu_s:,.0f} |"
    )


def _writer(log: Path, *, chain: bool) -> LogWriter:
    config = MountConfig("/source", "/mnt/data", "data", str(log), logging=LogOptions(chain=chain))
    return open_log(config)


def _append(log: LogWriter, count: int) -> None:
    started = perf_counter_ns()
    for number in range(count):
        record = AccessRecord(
            "", -1, "data", "write", "/report.txt", 2148141, "ok", -1, 0, 0, 17185, "bash", None,
            offset=number, size=6, bytes_written=6,
        )  # fmt: skip
        log.append(record, started)


def _cost_of_records(directory: Path, rounds: int) -> tuple[list[float], list[float]]:
    logs = [_writer(directory / f"{chain}.log", chain=chain) for chain in (False, True)]
    costs: tuple[list[float], list[float]] = ([], [])
    for _ in range(5 * rounds):
        for log, found in zip(logs, costs, strict=True):
            begun = time.process_time_ns()
            _append(log, _BATCH)
            found.append((time.process_time_ns() - begun) / 1000 / _BATCH)
            os.truncate(log.path, 0)
    for log in logs:
        log.close()
    return costs


def _cost_of_checkpoints(directory: Path) -> float:
    log = _writer(directory / "checkpoints.log", chain=True)

    def work() -> None:
        _append(log, 1)
        log.checkpoint()

    work()
    cost = statistics.median(_timed_us(work, 1) for _ in range(200))
    log.close()
    return cost


def _cost_of_calls(directory: Path, rounds: int) -> tuple[list[float], list[float]]:
    costs: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for chain, found in zip(("chain=false", "chain"), costs, strict=True):
            found.append(_cost_on_mount(directory, chain))
    return costs


def _cost_on_mount(directory: Path, option: str) -> float:
    source, mountpoint, log = (directory / name for name in ("source", "mount", "mount.log"))
    for path in (source, mountpoint):
        path.mkdir(exist_ok=True)
    command = (*_FUSEVOL, "mount", source, mountpoint, "--log", log, "-o", option)
    subprocess.run(command, check=True, timeout=_TIMEOUT_S)
    try:
        fd = os.open(mountpoint / "file", os.O_WRONLY | os.O_CREAT)
        block = bytes(4096)

        def work() -> None:
            for _ in range(_CALLS):
                os.pwrite(fd, block, 0)

        work()
        cost = _timed_us(work, _CALLS)
        os.close(fd)
        return cost
    finally:
        subprocess.run((*_FUSEVOL, "unmount", mountpoint), check=True, timeout=_TIMEOUT_S)
        log.unlink()


def _timed_us(work: Callable[[], None], count: int) -> float:
    begun = perf_counter_ns()
    work()
    return (perf_counter_ns() - begun) / 1000 / count


def _write(path: Path, records: int) -> None:
    log = _writer(path, chain=True)
    _append(log, records)
    log.close()


def _verified(log: Path, *before: str) -> Run:
    return _timed((*before, *_FUSEVOL, "log", "verify", str(log)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chain", description=__doc__)
    parser.add_argument("--records", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
