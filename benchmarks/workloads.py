"""What is measured. Each workload gives one value per row and peer, in a round of its own."""

import contextlib
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from benchmarks import processes
from benchmarks.bench import Bench
from benchmarks.mounting import Mount, Target
from benchmarks.peers import Peer
from benchmarks.processes import BenchmarkError
from benchmarks.trees import make_tree

_FEWEST_RECORDS: Final = 10
"""Any workload makes more calls than this; LoggedFS writes half a dozen lines when it starts."""


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    unit: str

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit in ("MB/s", "ops/s", "tps")


@dataclass(frozen=True)
class Place:
    """Where a workload runs: the volume as a client sees it."""

    volume: Path
    mount: Mount | None
    """None on the native directory."""


@dataclass(frozen=True)
class Sample:
    """What one peer gave in one round."""

    values: Mapping[str, float]
    log_lines: int | None = None
    log_bytes: int | None = None


class Workload:
    """Something to measure. Subclasses say what; `measure` does one peer once."""

    name: ClassVar[str]
    title: ClassVar[str]
    rows: ClassVar[tuple[Row, ...]]
    rounds: ClassVar[int] = 3
    compared: ClassVar[bool] = True
    """Whether peers do the same here, so that ratios and verdicts mean something."""
    log_variants: ClassVar[bool] = False
    """Whether the peers take part that show what logging costs."""

    def accepts(self, peer: Peer) -> bool:
        return self.log_variants or not peer.log_variant

    def missing(self) -> str | None:
        """Why this cannot be measured here, or None."""
        return None

    def setup(self, bench: Bench) -> None:
        """Makes once, natively, what all rounds share."""

    def prepare(self, bench: Bench, source: Path) -> None:
        """Fills a peer's source before it is mounted."""

    def run(self, bench: Bench, place: Place) -> dict[str, float]:
        """Measures on the mounted volume; returns a value for each row."""
        raise NotImplementedError

    def measure(self, bench: Bench, peer: Peer) -> Sample:
        with bench.target(peer) as target:
            self.prepare(bench, target.source)
            values = self.mount_and_run(bench, peer, target)
            if missing := {row.name for row in self.rows} - values.keys():
                raise BenchmarkError(f"no value for {', '.join(sorted(missing))}")
            if target.log is None:
                return Sample(values)
            lines, size = _lines_and_bytes(target.log)
            if self.compared and lines < _FEWEST_RECORDS:
                raise BenchmarkError(
                    f"{peer.name} wrote {lines} lines into its log: it did not log"
                )
            return Sample(values, lines, size)

    def mount_and_run(self, bench: Bench, peer: Peer, target: Target) -> dict[str, float]:
        mount = peer.mount(target)
        with mount or contextlib.nullcontext():
            return self.run(bench, Place(target.mountpoint, mount))


class Ops(Workload):
    name = "ops"
    title = "Single calls, one client"
    rounds = 5
    log_variants = True
    rows = (
        Row("create", "create + close", "us"),
        Row("stat_after", "stat after create", "us"),
        Row("stat_same", "stat, same file", "us"),
        Row("stat_missing", "stat, no such file", "us"),
        Row("open_close", "open + close", "us"),
        Row("open_write", "open + write 4 KiB + close", "us"),
        Row("open_read", "open + read 4 KiB + close", "us"),
        Row("pwrite", "pwrite 4 KiB", "us"),
        Row("pread", "pread 4 KiB", "us"),
        Row("fstat", "fstat", "us"),
        Row("readdir", "readdir, per entry", "us"),
        Row("readdir_stat", "readdir + stat, per entry", "us"),
        Row("rename", "rename", "us"),
        Row("unlink", "unlink", "us"),
        Row("mkdir_rmdir", "mkdir + rmdir", "us"),
        Row("seq_write", "sequential write", "MB/s"),
        Row("seq_read", "sequential read", "MB/s"),
        Row("seq_reread", "sequential read again", "MB/s"),
    )

    def run(self, bench: Bench, place: Place) -> dict[str, float]:
        count, megabytes = bench.size(2000, 60), bench.size(256, 8)
        command = [bench.ops, "micro", str(place.volume), str(count), str(megabytes)]
        return values_of(processes.run(command, timeout=bench.timeout))


class Git(Workload):
    name = "git"
    title = "Git"
    rows = (
        Row("git_clone", "git clone", "s"),
        Row("git_status", "git status", "s"),
    )

    def missing(self) -> str | None:
        return not_installed("git")

    def setup(self, bench: Bench) -> None:
        origin = bench.data / "origin"
        origin.mkdir()
        make_tree(origin, bench.size(4000, 60))
        for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"], ["gc", "-q"]):
            _git(bench, origin, *arguments)

    def run(self, bench: Bench, place: Place) -> dict[str, float]:
        # Native would make hard links otherwise, which no mount can to a file outside.
        clone = ["clone", "-q", "--no-hardlinks", str(bench.data / "origin"), "clone"]
        start = time.monotonic()
        _git(bench, place.volume, *clone)
        cloned = time.monotonic()
        repository = place.volume / "clone"
        # The first one reads files again whose time is that of the index, so it may differ.
        _git(bench, repository, "status", "--porcelain")
        settled = time.monotonic()
        _git(bench, repository, "status", "--porcelain")
        return {"git_clone": cloned - start, "git_status": time.monotonic() - settled}


class Tree(Workload):
    name = "tree"
    title = "Trees of files"
    rows = (
        Row("untar", "tar -x", "s"),
        Row("find_names", "find by name", "s"),
        Row("find_stat", "find by size", "s"),
    )

    def setup(self, bench: Bench) -> None:
        tree = bench.work / "tree"
        tree.mkdir()
        make_tree(tree, bench.size(4000, 60))
        with tarfile.open(bench.data / "tree.tar", "w") as archive:
            archive.add(tree, "tree")
        shutil.rmtree(tree)

    def prepare(self, bench: Bench, source: Path) -> None:
        make_tree(source / "found", bench.size(10000, 60))

    def run(self, bench: Bench, place: Place) -> dict[str, float]:
        untar: list[str | Path] = ["tar", "-xf", bench.data / "tree.tar", "-C", place.volume]
        found = place.volume / "found"
        return {
            # First, while the kernel knows nothing of the tree.
            "find_names": timed(bench, ["find", found, "-name", "none"]),
            "find_stat": timed(bench, ["find", found, "-size", "+100M"]),
            "untar": timed(bench, untar),
        }


_SQLITE: Final = """\
import sqlite3, sys, time
path, mode, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
db = sqlite3.connect(path, isolation_level=None)
found = db.execute(f"PRAGMA journal_mode={mode}").fetchone()[0]
assert found == mode, f"journal mode is {found}, not {mode}"
db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
start = time.monotonic()
for number in range(count):
    db.execute("INSERT INTO t (text) VALUES (?)", ("x" * 200,))
end = time.monotonic()
assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
assert db.execute("SELECT count(*) FROM t").fetchone()[0] == count
print("insert us", (end - start) / count * 1e6)
"""


class Sqlite(Workload):
    name = "sqlite"
    title = "SQLite, one insert per transaction"
    rows = (
        Row("sqlite_delete", "insert, rollback journal", "us"),
        Row("sqlite_wal", "insert, write-ahead log", "us"),
    )

    def run(self, bench: Bench, place: Place) -> dict[str, float]:
        values = {}
        for mode in ("delete", "wal"):
            path = place.volume / f"{mode}.db"
            count = str(bench.size(1000, 10))
            command = [sys.executable, "-c", _SQLITE, str(path), mode, count]
            output = processes.run(command, timeout=bench.timeout)
            values[f"sqlite_{mode}"] = values_of(output)["insert"]
        return values


class Clients(Workload):
    name = "clients"
    title = "Several clients: 40 % open + read + close, 20 % open + write + close, 40 % stat"
    log_variants = True
    rows = tuple(
        Row(f"clients_{count}", f"{count} client{'s' if count > 1 else ''}", "ops/s")
        for count in (1, 4, 16)
    )

    def run(self, bench: Bench, place: Place) -> dict[str, float]:
        values = {}
        for count in (1, 4, 16):
            span = "0.2" if bench.quick else "1.5"
            command = [bench.ops, "clients", str(place.volume), str(count), span]
            output = processes.run(command, timeout=bench.timeout)
            values[f"clients_{count}"] = values_of(output)["calls"]
        return values


def values_of(output: str) -> dict[str, float]:
    """Reads lines of name, unit and value."""
    values = {}
    for line in output.splitlines():
        name, _, value = line.split()
        values[name] = float(value)
    return values


def timed(bench: Bench, command: Sequence[str | Path]) -> float:
    """Runs a command and returns the seconds it took."""
    start = time.monotonic()
    processes.run(command, timeout=bench.timeout)
    return time.monotonic() - start


def not_installed(command: str) -> str | None:
    return None if shutil.which(command) else f"{command} is not installed"


def _git(bench: Bench, directory: Path, *arguments: str) -> None:
    env = {
        **processes.environment(),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "x",
        "GIT_AUTHOR_EMAIL": "x@localhost",
        "GIT_COMMITTER_NAME": "x",
        "GIT_COMMITTER_EMAIL": "x@localhost",
    }
    command: list[str | Path] = ["git", "-C", directory, "-c", "gc.auto=0", *arguments]
    processes.run(command, timeout=bench.timeout, env=env)


def _lines_and_bytes(path: Path) -> tuple[int, int]:
    lines = size = 0
    with path.open("rb") as log:
        while block := log.read(1 << 20):
            lines += block.count(b"\n")
            size += len(block)
    return lines, size
