"""From the call of the mount command to the first stat that the mount answers."""

import subprocess

from benchmarks import processes
from benchmarks.bench import Bench
from benchmarks.mounting import Target
from benchmarks.peers import Native, Peer
from benchmarks.processes import BenchmarkError
from benchmarks.workloads import Row, Workload, values_of


class Startup(Workload):
    name = "startup"
    title = "Start"
    rounds = 5
    compared = False
    rows = (Row("startup", "mount command to first stat answered", "ms"),)

    def accepts(self, peer: Peer) -> bool:
        return super().accepts(peer) and not isinstance(peer, Native)

    def mount_and_run(self, bench: Bench, peer: Peer, target: Target) -> dict[str, float]:
        mount = peer.mount(target)
        assert mount is not None
        command = [bench.ops, "await", str(target.mountpoint)]
        with processes.background(command, stdout=subprocess.PIPE) as watcher:
            assert watcher.stdout is not None
            watcher.stdout.readline()  # it has seen the directory without the mount
            with mount:
                try:
                    watcher.wait(bench.timeout)
                except subprocess.TimeoutExpired:
                    raise BenchmarkError("the mount did not answer") from None
                answered = values_of(watcher.stdout.read().decode())["answered"]
                return {"startup": (answered - mount.started) * 1e3}
