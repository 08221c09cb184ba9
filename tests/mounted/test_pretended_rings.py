"""Nobody gets reads that are not recorded by calling itself as the kernel's threads of io_uring."""

import os
from pathlib import Path

import pytest

from tests.mounted.mounting import other_process, serving

_READ_TWICE = """
import os, sys
name, path = sys.argv[1:]
with open("/proc/self/comm", "w") as comm:
    comm.write(name)
for flags in (os.O_RDONLY, os.O_RDWR | os.O_CREAT):
    fd = os.open(path, flags)
    os.pread(fd, 10, 0)
    os.pread(fd, 10, 0)
    os.close(fd)
    path += "-new"
print(flush=True)
"""


@pytest.mark.parametrize("name", ["iou-wrk-1", "iou-sqp-1", "iou-) R 1 0 0 0"])
def test_a_process_with_the_name_of_a_ring_is_recorded(module_workspace: Path, name: str) -> None:
    source, mountpoint = module_workspace / "source", module_workspace / "mount"
    source.mkdir(exist_ok=True)
    mountpoint.mkdir(exist_ok=True)
    (source / "file").write_bytes(b"content")
    (source / "file-new").unlink(missing_ok=True)
    log = module_workspace / f"{os.urandom(4).hex()}.log"
    with serving(source, mountpoint, log, "all") as served:
        with other_process(_READ_TWICE, name, mountpoint / "file") as process:
            assert process.stdout is not None
            process.stdout.readline()
        reads = [(r.comm, r.path, r.offset, r.size) for r in served.records() if r.op == "read"]
    assert reads == [(name, "/file", 0, 10)] * 2 + [(name, "/file-new", 0, 10)] * 2
