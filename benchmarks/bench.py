"""One run: its directories, its sizes, and a fresh target for every measurement."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks import processes
from benchmarks.mounting import Target, detach, file_system_type, isolate, mount_points_below
from benchmarks.peers import Peer
from benchmarks.processes import BenchmarkError

_numbers = count(1)
_ENOUGH_BYTES = 2 << 30


@dataclass(frozen=True)
class Bench:
    """Where a run keeps what, and how much it does. The directories are the run's own."""

    work: Path
    """Mount points, sockets, configuration, the compiled program. No measured data."""
    data: Path
    """The source directories and what they are made from."""
    logs: Path
    disk: Path
    """Access logs that are to be on disk."""
    quick: bool
    timeout: float
    """Seconds that one command may take."""

    @property
    def ops(self) -> str:
        """The measuring program, see ops.c."""
        return str(self.work / "ops")

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def compile(self) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise BenchmarkError("no C compiler found for ops.c: install gcc")
        source = Path(__file__).with_name("ops.c")
        processes.run([compiler, "-O2", "-o", self.ops, source], timeout=60)

    @contextlib.contextmanager
    def target(self, peer: Peer) -> Iterator[Target]:
        """Gives empty directories to mount a peer with, and removes them."""
        name = f"{next(_numbers)}-{peer.name}"
        source = self.data / name
        scratch = self.work / name
        mountpoint = source if peer.in_place else scratch / "mnt"
        log = (self.disk if peer.log_place == "disk" else self.logs) / f"{name}.log"
        with contextlib.ExitStack() as stack:
            for directory in (source, scratch, mountpoint):
                if not directory.exists():
                    directory.mkdir()
                    stack.callback(remove, directory)
            stack.callback(log.unlink, missing_ok=True)
            yield Target(source, mountpoint, log if peer.log_place else None, scratch)


def remove(directory: Path) -> None:
    """Removes a directory of ours and what it holds; never what is mounted in it."""
    detach(directory)
    if not mount_points_below(directory):
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def directories(
    source: Path | None, log: Path | None, disk: Path, *, quick: bool, timeout: float
) -> Iterator[Bench]:
    """Makes the directories of a run, on tmpfs where none are given, and removes them.

    Whatever the run has left behind is ended and unmounted first.
    """
    processes.become_subreaper()
    isolate()
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(_own_directory(None))
        memory = stack.enter_context(_tmpfs(work)) if source is None or log is None else work
        bench = Bench(
            work=work,
            data=stack.enter_context(_own_directory(source or memory)),
            logs=stack.enter_context(_own_directory(log or memory)),
            disk=stack.enter_context(_own_directory(disk)),
            quick=quick,
            timeout=timeout,
        )
        stack.callback(processes.sweep)
        bench.compile()
        yield bench


@contextlib.contextmanager
def _own_directory(parent: Path | None) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="fusevol-bench-", dir=parent)).resolve()
    try:
        # PostgreSQL's processes belong to another user and have to get through.
        directory.chmod(0o755)
        yield directory
    finally:
        remove(directory)


@contextlib.contextmanager
def _tmpfs(work: Path) -> Iterator[Path]:
    """A directory on tmpfs: /dev/shm, or where that is small or missing one mounted for the run."""
    shm = Path("/dev/shm")
    if file_system_type(shm) == "tmpfs" and shutil.disk_usage(shm).free >= _ENOUGH_BYTES:
        yield shm
        return
    directory = work / "tmpfs"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "mode=755", "fusevol-bench", str(directory)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BenchmarkError(f"no tmpfs: give --source-dir and --log-dir ({result.stderr.strip()})")
    try:
        yield directory
    finally:
        detach(directory)
