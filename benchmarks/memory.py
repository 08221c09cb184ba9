"""How much memory a fusevol worker needs for the inodes that the kernel knows."""

from pathlib import Path
from typing import Final

from benchmarks import processes
from benchmarks.bench import Bench
from benchmarks.mounting import Mount
from benchmarks.peers import Fusevol, Peer
from benchmarks.processes import BenchmarkError
from benchmarks.trees import make_empty_files
from benchmarks.workloads import Place, Row, Workload

_UNIT: Final = 100_000


class Memory(Workload):
    """Makes files natively, stats them all through the mount, and looks at what has grown.

    The process that grows most is taken for the worker.
    """

    name = "memory"
    title = "Memory of the worker"
    rounds = 1
    compared = False
    rows = (
        Row("memory_start", "RSS before", "MiB"),
        Row("memory_rss", "RSS per 100,000 known inodes", "MiB"),
        Row("memory_pss", "PSS per 100,000 known inodes", "MiB"),
        Row("memory_inode", "PSS per known inode", "B"),
        Row("memory_descriptors", "open descriptors at the end", "count"),
    )

    def accepts(self, peer: Peer) -> bool:
        return super().accepts(peer) and isinstance(peer, Fusevol)

    def prepare(self, bench: Bench, source: Path) -> None:
        make_empty_files(source, bench.size(_UNIT, 2000))

    def run(self, bench: Bench, place: Place) -> dict[str, float]:
        assert place.mount is not None
        warm_up = ["stat", str(place.volume / "d0"), str(place.volume / "d0" / "file0")]
        processes.run(warm_up, timeout=bench.timeout)
        before = _memory(place.mount)
        processes.run([bench.ops, "walk", place.volume], timeout=bench.timeout)
        after = _memory(place.mount)
        grown = [pid for pid in after if pid in before]
        if not grown:
            raise BenchmarkError("no process serves the mount")
        worker = max(grown, key=lambda pid: after[pid]["Rss"] - before[pid]["Rss"])
        files = bench.size(_UNIT, 2000)
        rss, pss = (after[worker][key] - before[worker][key] for key in ("Rss", "Pss"))
        mib = 1 << 20
        return {
            "memory_start": before[worker]["Rss"] / mib,
            "memory_rss": rss / files * _UNIT / mib,
            "memory_pss": pss / files * _UNIT / mib,
            "memory_inode": pss / files,
            "memory_descriptors": len(list(Path(f"/proc/{worker}/fd").iterdir())),
        }


def _memory(mount: Mount) -> dict[int, dict[str, int]]:
    """Rss and Pss, in bytes, of each process that serves a mount."""
    found = {}
    for pid in mount.servers():
        values = {}
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            key, _, rest = line.partition(":")
            values[key] = int(rest.split()[0]) * 1024
        found[pid] = values
    return found
