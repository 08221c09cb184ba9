"""What ends a mount by force reaches its own connection or nothing: numbers are used again."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from fusevol.linux import mounts
from fusevol.linux.mountinfo import mount_at
from fusevol.mounts import registry
from fusevol.mounts.connection import Connection, connection_of
from fusevol.mounts.mounting import FUSE_DEVICE, set_readahead
from tests.served import fusevol, is_mounted, needs_root, runs, serve, wait_until

pytestmark = needs_root

_TRIES: Final = 5
"""Others on the machine may get the number first."""
_TAKEN: Final = 12


@contextmanager
def _bindfs(place: Path) -> Iterator[Path]:
    if shutil.which("bindfs") is None:
        pytest.skip("bindfs is not installed")
    subprocess.run(["bindfs", place / "source", place / "volume"], check=True)
    try:
        yield place / "volume"
    finally:
        subprocess.run(["umount", "--lazy", place / "volume"], check=True)


@contextmanager
def _fusevol(place: Path) -> Iterator[Path]:
    with serve(place) as served:
        yield served.mountpoint


def _make(place: Path) -> Path:
    for name in ("source", "volume"):
        (place / name).mkdir(parents=True)
    (place / "source/file").write_text("content\n")
    return place


@pytest.mark.parametrize("neighbour", [_bindfs, _fusevol])
def test_a_neighbour_that_gets_the_number_of_a_hung_mount_lives(
    tmp_path: Path, neighbour: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    for number in range(_TRIES):
        if _outlives(
            _make(tmp_path / f"hung-{number}"), _make(tmp_path / f"n-{number}"), neighbour
        ):
            return
    pytest.skip("others were always given the number first")


def _outlives(
    hung: Path, beside: Path, neighbour: Callable[[Path], AbstractContextManager[Path]]
) -> bool:
    """End a hung mount beside another; return whether that had its number."""
    with _lower_numbers_taken(hung / "taken"), serve(hung) as served:
        status = served.status()
        os.kill(status["worker"], signal.SIGSTOP)
        os.kill(status["pid"], signal.SIGTERM)
        wait_until(lambda: not is_mounted(served.mountpoint), "the mount to be detached")
        with neighbour(beside) as volume:
            has_number: bool = os.stat(volume).st_dev == status["device"]
            wait_until(lambda: not runs(status["pid"]), "the keeper's end", 30)
            assert (volume / "file").read_text() == "content\n"
        assert not runs(status["worker"])
    return has_number


@contextmanager
def _silent(mountpoint: Path) -> Iterator[tuple[int, int]]:
    """Mount a file system that nobody serves; give its /dev/fuse and its st_dev."""
    fd = os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    data = f"fd={fd},rootmode=40000,user_id=0,group_id=0"
    mounts.mount("nothing", str(mountpoint), registry.FSTYPE, 0, data)
    mount = mount_at(str(mountpoint))
    assert mount is not None
    try:
        yield fd, mount.device
    finally:
        os.close(fd)
        if is_mounted(mountpoint):
            mounts.umount(str(mountpoint), mounts.MNT_DETACH)


@contextmanager
def _lower_numbers_taken(place: Path) -> Iterator[None]:
    """Take the numbers that others have given back: the lowest is given first."""
    with ExitStack() as mounted:
        for number in range(_TAKEN):
            mountpoint = place / str(number)
            mountpoint.mkdir(parents=True)
            mounted.enter_context(_silent(mountpoint))
        yield


def test_a_connection_that_is_held_is_no_other(tmp_path: Path) -> None:
    for _ in range(_TRIES):
        with _silent(tmp_path) as (fuse_fd, device):
            held = connection_of(fuse_fd, device)
            assert held is not None
            assert held.is_there()
        assert not held.is_there()
        with _silent(tmp_path) as (fuse_fd, again):
            assert not held.is_there()
            assert not held.abort()
            other = connection_of(fuse_fd, again)
            assert other is not None
            assert other.is_there()
            assert connection_of(fuse_fd, again + 1) is None
            set_readahead(again, fuse_fd)
            other.abort()
            # It is there until it is unmounted, but is taken for nobody's any more.
            assert other.is_there()
            assert connection_of(fuse_fd, again) is None
            other.close()
        held.close()
        if again == device:
            return
    pytest.skip("others were always given the number first")


def test_what_is_not_the_mount_that_was_meant_is_not_held(tmp_path: Path) -> None:
    with _silent(tmp_path) as (_, device), pytest.raises(Exception, match="has ended"):
        Connection.of(device, lambda: False)


def test_the_connection_is_held_by_whoever_keeps_the_mount(tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        _assert_held(served.status())
        fusevol("reload", served.mountpoint)
        _assert_held(served.status())
        before = served.status()
        os.kill(before["pid"], signal.SIGKILL)
        wait_until(lambda: served.status()["pid"] not in (0, before["pid"]), "the next keeper")
        _assert_held(served.status())


def _assert_held(status: "dict[str, object]") -> None:
    names = [os.readlink(fd) for fd in Path(f"/proc/{status['pid']}/fd").iterdir()]
    device = status["device"]
    assert isinstance(device, int)
    assert names.count(f"/{os.minor(device)}") == 1, names
