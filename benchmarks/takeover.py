"""`python -m benchmarks.takeover`: how long a mount pauses when its worker is killed, and for what.

Mounts directories of its own with ever more files, has a client list them, so that the kernel and
fusevol know each, and kills the worker again and again. Then makes, lists, and forgets many files
in rounds, to see that the recovery state does not grow with what has been. Prints Markdown.

Takes root: the kernel is told to forget (/proc/sys/vm/drop_caches), on the whole machine.
"""

import argparse
import contextlib
import os
import platform
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.trees import make_empty_files
from fusevol.mounts import registry
from fusevol.recovery.nodes import EXTRA, STRIDE
from fusevol.recovery.region import NODES, NODES_HIGH, WORD

_FUSEVOL: Final = str(Path(sys.executable).with_name("fusevol"))
_COUNTS: Final = (100, 10_000, 100_000, 1_000_000)
_KILLS: Final = 20
_ROUNDS: Final = 10
_COMMAND_S: Final = 900.0
_WAIT_S: Final = 60.0
_STATE: Final = "/memfd:fusevol-state"
_MIB: Final = 1 << 20


@dataclass(frozen=True)
class Mount:
    """A mount of this benchmark."""

    source: Path
    mountpoint: Path

    def served(self) -> registry.MountEntry:
        served = registry.get(str(self.mountpoint))
        assert served is not None, "the mount is gone"
        return served

    def state(self) -> Path:
        """The memfd of the recovery state, as the keeper has it open."""
        for link in Path(f"/proc/{self.served().pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(link).startswith(_STATE):
                    return link
        raise AssertionError("the keeper has no recovery state")

    def state_bytes(self) -> int:
        return os.stat(self.state()).st_blocks * 512

    def known(self) -> int:
        """How many inodes stand in the state. Read, not mapped: that would fill its holes."""
        with self.state().open("rb") as file:
            file.seek(NODES_HIGH * WORD)
            high = int.from_bytes(file.read(WORD), sys.byteorder)
            file.seek(NODES * WORD)
            words = memoryview(file.read((high - NODES) * WORD)).cast("Q")
        return sum(1 for ino in words[::STRIDE].tolist() if ino and ino != EXTRA)


@dataclass(frozen=True)
class Pause:
    """Seconds from SIGKILL until the worker is dead, its successor there, and a client answered."""

    dead: float
    answered: float


def main() -> int:
    options = _parser().parse_args()
    if os.geteuid() != 0:
        print("benchmarks.takeover: takes root", file=sys.stderr)
        return 2
    print(f"{platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()};")
    print(f"{options.kills} kills each, medians (fastest); load {os.getloadavg()[0]:.2f}\n")
    print(
        "| known inodes | worker dead, ms | successor forked | first answer | state, MiB "
        "| PSS of the worker, MiB |\n|---|---|---|---|---|---|"
    )
    for count in options.counts:
        print(_takeovers(count, options.kills), flush=True)
    if options.churn:
        _churn(options.churn, options.rounds)
    return 0


def _takeovers(count: int, kills: int) -> str:
    with _mounted() as mount:
        make_empty_files(mount.source, count)
        _list(mount)
        known = mount.known()
        forked = [_time_to_fork(mount) for _ in range(kills)]
        pauses = [_time_to_answer(mount) for _ in range(kills)]
        state = mount.state_bytes() / _MIB
        memory = _pss(_settled_worker(mount)) / _MIB
    cells = [
        f"{known:,}", _ms([pause.dead for pause in pauses]), _ms(forked),
        _ms([pause.answered for pause in pauses]), f"{state:.1f}", f"{memory:.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _time_to_answer(mount: Mount) -> Pause:
    worker = _settled_worker(mount)
    with _pidfd(worker) as pidfd:
        start = time.perf_counter()
        os.kill(worker, signal.SIGKILL)
        select.select([pidfd], [], [])
        dead = time.perf_counter() - start
        _ask(mount)
    return Pause(dead, time.perf_counter() - start)


def _ask(mount: Mount) -> None:
    """Has the worker answer: an open is never answered by the kernel itself."""
    os.close(os.open(mount.mountpoint / "d0", os.O_RDONLY))


def _time_to_fork(mount: Mount) -> float:
    """Looks for the successor all the time, which would disturb it at its start."""
    worker = _settled_worker(mount)
    keeper = mount.served().pid
    children = Path(f"/proc/{keeper}/task/{keeper}/children")
    start = time.perf_counter()
    os.kill(worker, signal.SIGKILL)
    while children.read_text().split() in ([], [str(worker)]):
        pass
    return time.perf_counter() - start


def _settled_worker(mount: Mount) -> int:
    """The worker, when it has answered long enough not to be taken for one that fails at once."""
    end = time.monotonic() + 0.25
    while time.monotonic() < end:
        _ask(mount)
        time.sleep(0.002)
    return mount.served().worker


def _churn(total: int, rounds: int) -> None:
    """Shows how the state grows and shrinks as files come and go."""
    count = total // rounds
    print(f"\n{rounds} rounds of {count:,} files: made, listed, removed, forgotten\n")
    print("| round | known | state, MiB | known after | state after, MiB | pause then, ms |")
    print("|---|---|---|---|---|---|")
    with _mounted() as mount:
        (mount.source / "d0").mkdir()
        for number in range(rounds):
            files = mount.source / f"round{number}"
            files.mkdir()
            make_empty_files(files, count)
            _list(mount)
            full = f"{mount.known():,} | {mount.state_bytes() / _MIB:.1f}"
            shutil.rmtree(files)
            _forget(mount)
            empty = f"{mount.known():,} | {mount.state_bytes() / _MIB:.1f}"
            pause = _time_to_answer(mount).answered * 1e3
            print(f"| {number + 1} | {full} | {empty} | {pause:.0f} |", flush=True)


def _forget(mount: Mount) -> None:
    """Has the kernel forget, and waits until it has said so of all."""
    for _ in range(3):
        Path("/proc/sys/vm/drop_caches").write_text("2")
        before = -1
        while (now := mount.known()) != before:
            before = now
            time.sleep(0.3)


def _list(mount: Mount) -> None:
    subprocess.run(
        ["ls", "-lRU", mount.mountpoint], stdout=subprocess.DEVNULL, timeout=_COMMAND_S, check=True
    )


@contextlib.contextmanager
def _mounted() -> Iterator[Mount]:
    with tempfile.TemporaryDirectory(prefix="fusevol-takeover-", dir="/dev/shm") as directory:
        top = Path(directory)
        mount = Mount(top / "source", top / "mount")
        mount.source.mkdir()
        mount.mountpoint.mkdir()
        words = ["--log", str(top / "log"), "--record", "data"]
        _run(["mount", str(mount.source), str(mount.mountpoint), *words])
        try:
            yield mount
        finally:
            _run(["unmount", "--force", str(mount.mountpoint)])


def _run(words: Sequence[str]) -> None:
    subprocess.run([_FUSEVOL, *words], timeout=_WAIT_S, check=True)


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(pid)


def _ms(values: list[float]) -> str:
    return f"{statistics.median(values) * 1e3:.1f} ({min(values) * 1e3:.1f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.takeover",
        description="Measures the pause of a mount whose worker is killed.",
    )
    add = parser.add_argument
    add("--counts", type=_numbers, default=_COUNTS, help="known inodes, such as 100,10000")
    add("--kills", type=int, default=_KILLS, help=f"of each worker ({_KILLS})")
    add("--churn", type=int, default=2_000_000, help="files that come and go; 0 for none")
    add("--rounds", type=int, default=_ROUNDS, help=f"in which they do ({_ROUNDS})")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
