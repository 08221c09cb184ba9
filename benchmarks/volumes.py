"""`python -m benchmarks.volumes`: what many volumes and their containers cost.

Starts a `fusevol serve` of its own, refers to as many volumes as were asked for, and runs
containers of a root file system of busybox. Prints a report in Markdown.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

_FUSEVOL: Final = str(Path(sys.executable).with_name("fusevol"))
_BUSYBOX: Final = "/usr/bin/busybox"
_ROUNDS: Final = 10
_READY_S: Final = 30.0


def main() -> int:
    options = _parser().parse_args()
    if os.geteuid() != 0 or not os.path.exists(_BUSYBOX):
        print("benchmarks.volumes: takes root, and the package busybox-static", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="fusevol-volumes-", dir="/var/tmp") as directory:
        rows = _measure(Path(directory), options.count)
    print(f"{platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()};")
    print(f"{options.count} volumes, {_ROUNDS} rounds, medians; load {os.getloadavg()[0]:.2f}\n")
    print("| what | value |\n|---|---|")
    for what, value in rows.items():
        print(f"| {what} | {value} |")
    return 0


def _measure(directory: Path, count: int) -> dict[str, str]:
    for name in ("state", "runtime", "log"):
        (directory / name).mkdir(mode=0o700)
        os.environ[f"FUSEVOL_{name.upper()}_DIRECTORY"] = str(directory / name)
    (directory / "config.toml").write_text("[docker]\nenabled = false\n")
    rootfs = _rootfs(directory / "rootfs")
    with _daemon(directory) as daemon:
        rows = _volumes(directory, count, daemon)
        rows |= _containers(directory, rootfs)
        _release_all()
    return rows


def _volumes(directory: Path, count: int, daemon: int) -> dict[str, str]:
    # Only now: it reads the directories from the environment.
    from fusevol.server.control import Client

    with Client() as client:
        for number in range(count):
            source = directory / f"source{number}"
            source.mkdir()
            client.create(f"v{number}", {"source": str(source)})
        idle = _pss(daemon)
        first = [_timed(partial(client.mount, f"v{n}", "one")) for n in range(count)]
        again = [_timed(partial(client.mount, f"v{n}", "two")) for n in range(count)]
        told = [_timed(partial(client.inspect, f"v{n}")) for n in range(count)]
        for number in range(count):
            (Path(client.inspect(f"v{number}").mountpoint) / "file").write_text("x")
        workers = [_pss(client.inspect(f"v{n}").worker) for n in range(count)]
    after = _pss(daemon)
    return {
        "first mount of a volume: its worker starts": f"{_ms(first)} ms",
        "further mount of a volume": f"{_ms(again)} ms",
        "question about a volume, answered": f"{_ms(told)} ms",
        "memory (PSS) of a worker": f"{statistics.median(workers) / 1e6:.1f} MB",
        "memory of all workers": f"{sum(workers) / 1e6:.0f} MB",
        "memory of the daemon, before and after": f"{idle / 1e6:.1f} and {after / 1e6:.1f} MB",
    }


def _containers(directory: Path, rootfs: Path) -> dict[str, str]:
    source = directory / "source0"
    kinds: Mapping[str, list[str]] = {
        "without a volume": [],
        "with a volume that is served already": ["-v", "v1:/data"],
        "with a path, which gets a server of its own": ["-v", f"{source}:/data"],
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(_ROUNDS):
        for kind, words in kinds.items():
            command = [_FUSEVOL, "run", "--rm", "--rootfs", str(rootfs), *words, "--", "true"]
            times[kind].append(_timed(partial(subprocess.run, command, check=True)))
    return {f"fusevol run ... true, {kind}": f"{_ms(values)} ms" for kind, values in times.items()}


def _release_all() -> None:
    from fusevol.server.control import Client

    with Client() as client:
        for volume in client.list():
            client.unmount(volume.name, "", all=True)


@contextmanager
def _daemon(directory: Path) -> Iterator[int]:
    with (directory / "messages").open("wb") as messages:
        process = subprocess.Popen(
            [_FUSEVOL, "serve", "--config", str(directory / "config.toml")], stderr=messages
        )
    try:
        deadline = time.monotonic() + _READY_S
        while not (directory / "runtime/control.sock").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((directory / "messages").read_text())
            time.sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _rootfs(path: Path) -> Path:
    for name in ("bin", "dev", "proc", "sys", "data"):
        (path / name).mkdir(parents=True)
    shutil.copy2(_BUSYBOX, path / "bin/busybox")
    (path / "bin/true").symlink_to("busybox")
    return path


def _timed(work: Callable[[], object]) -> float:
    """Return how long something takes, in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _ms(values: list[float]) -> str:
    return f"{statistics.median(values) * 1e3:.2f}"


def _pss(pid: int) -> int:
    """Return the memory of a process, that which it shares counted in part, in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(pid)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.volumes", description="Measures what many volumes cost."
    )
    parser.add_argument("--count", type=int, default=50, help="how many volumes (50)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
