"""Many files: descriptors and memory stay bounded, and what the kernel forgets is given back."""

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.served import Served, needs_root, serve, wait_until

pytestmark = needs_root

_FILES = 100_000
_BYTES_PER_INODE = 700
"""Usually 593, of which the recovery state has 128 and the buffers of a listing some."""
_DESCRIPTORS = 64


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _forget_all() -> None:
    """Make the kernel drop its unused names and inodes (proc_sys_vm(5))."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("many")
    source = directory / "source"
    source.mkdir()
    fd = os.open(source, os.O_RDONLY)
    for number in range(_FILES):
        os.close(os.open(f"file-{number:07d}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    with serve(directory, "--log", "none") as served:
        yield served


def test_a_known_inode_costs_little_memory_and_no_descriptor(many: Served) -> None:
    worker = many.status()["worker"]
    before = _resident_bytes(worker)
    assert len(os.listdir(many.mountpoint)) == _FILES
    for number in range(0, _FILES, 7):
        os.stat(many.mountpoint / f"file-{number:07d}")
    assert (_resident_bytes(worker) - before) / _FILES < _BYTES_PER_INODE
    assert _descriptors(worker) < _DESCRIPTORS


def test_memory_of_what_is_forgotten_is_used_again(many: Served) -> None:
    worker = many.status()["worker"]
    os.listdir(many.mountpoint)
    most = _resident_bytes(worker)
    for _ in range(3):
        _forget_all()
        # FORGETs have no answer to wait for; the next request comes after them.
        time.sleep(0.2)
        os.listdir(many.mountpoint)
    assert _resident_bytes(worker) < most + _FILES * _BYTES_PER_INODE // 4


def test_few_descriptors_are_enough_for_many_directories(tmp_path: Path) -> None:
    """Each of 400 directories is needed again and again, with 100 pins at most for all."""
    source = tmp_path / "source"
    for number in range(400):
        (source / f"outer-{number}" / "inner").mkdir(parents=True)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The daemon inherits the limits and raises the soft one to the hard one.
    if os.fork() == 0:
        _work_with_few_descriptors(tmp_path)
    _, status = os.wait()
    assert os.waitstatus_to_exitcode(status) == 0
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits


def _work_with_few_descriptors(tmp_path: Path) -> None:
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
        with serve(tmp_path) as served:
            worker = served.status()["worker"]
            inside = os.open(served.mountpoint / "outer-0" / "inner", os.O_PATH)
            for turn in range(3):
                for number in range(400):
                    outer = served.mountpoint / f"outer-{number}"
                    (outer / "inner" / f"file-{turn}").write_text(str(number))
                    assert max(os.listdir(outer / "inner")) == f"file-{turn}"
                assert _descriptors(worker) < 400
            # Found again by its handle, although the host gave its parent another name.
            (tmp_path / "source" / "outer-0").rename(tmp_path / "source" / "moved")
            assert len(os.listdir(f"/proc/self/fd/{inside}")) == 3
            os.close(inside)
            wait_until(lambda: _descriptors(worker) < 350, "pins given up")
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)
