"""Sources that have mounts below them, and what their mounts forbid."""

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from fusevol.linux.mountinfo import mount_at
from fusevol.linux.mounts import MNT_DETACH, MS_BIND, MS_NOEXEC, MS_NOSYMFOLLOW, mount, umount
from tests.mounted.mounting import Served, fusevol, serving


@contextmanager
def mounted(path: Path, flags: int = 0, data: str = "size=8m") -> Iterator[Path]:
    """A tmpfs at `path`, which is made, inside the block."""
    path.mkdir(exist_ok=True)
    mount("tmpfs", str(path), "tmpfs", flags, data)
    try:
        yield path
    finally:
        umount(str(path), MNT_DETACH)


@contextmanager
def bound(source: Path, path: Path) -> Iterator[Path]:
    """The mount of `source` at `path` as well, inside the block; not what is mounted below."""
    mount(str(source), str(path), "", MS_BIND, "")
    try:
        yield path
    finally:
        umount(str(path), MNT_DETACH)


@pytest.fixture(params=["all", "data"])
def level(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(module_workspace: Path) -> Iterator[Path]:
    """Directories `source` and `mount` in an empty one."""
    place = module_workspace / "place"
    for name in ("source", "mount"):
        (place / name).mkdir(parents=True)
    yield place
    shutil.rmtree(place)


def program(path: Path) -> Path:
    shutil.copy("/bin/true", path)
    return path


def runs(path: Path) -> bool:
    try:
        return subprocess.run([path], check=False).returncode == 0
    except PermissionError:
        return False


def serve(place: Path, level: str, options: str = "") -> AbstractContextManager[Served]:
    return serving(place / "source", place / "mount", place / f"{level}.log", level, options)


def words_of(mountpoint: Path) -> frozenset[str]:
    found = mount_at(str(mountpoint))
    assert found is not None
    return found.options


def test_what_the_mount_of_the_source_forbids(place: Path, level: str) -> None:
    with mounted(place / "source", MS_NOEXEC | MS_NOSYMFOLLOW) as source:
        program(source / "program")
        (source / "link").symlink_to("program")
        with serve(place, level, "exec,symfollow") as volume:
            assert {"noexec", "nosymfollow"} <= words_of(volume.mountpoint)
            assert not runs(volume.mountpoint / "program")
            assert os.readlink(volume.mountpoint / "link") == "program"
            with pytest.raises(OSError, match="symbolic links") as raised:
                (volume.mountpoint / "link").read_bytes()
            assert raised.value.errno == errno.ELOOP


def test_what_a_mount_below_forbids_holds_for_all(place: Path, level: str) -> None:
    program(place / "source/program")
    with mounted(place / "source/below", MS_NOEXEC) as below:
        program(below / "program")
        with serve(place, level) as volume:
            assert "noexec" in words_of(volume.mountpoint)
            assert not runs(volume.mountpoint / "program")
            assert not runs(volume.mountpoint / "below/program")


def test_that_is_said_when_it_is_mounted(place: Path) -> None:
    with mounted(place / "source/below", MS_NOEXEC):
        done = fusevol("mount", place / "source", place / "mount", "--log", "none")
        fusevol("unmount", place / "mount")
    assert done.returncode == 0
    assert f"all of the volume is noexec, as {place}/source/below is" in done.stderr
    assert done.stderr.count("\n") == 1


def test_exec_said_expressly_leaves_only_what_is_below_without(place: Path, level: str) -> None:
    program(place / "source/program")
    with mounted(place / "source/below", MS_NOEXEC) as below:
        program(below / "program")
        (below / "script").write_text("#!/bin/sh\n")
        (below / "script").chmod(0o755)
        with serve(place, level, "exec") as volume:
            assert "noexec" not in words_of(volume.mountpoint)
            assert runs(volume.mountpoint / "program")
            for name in ("program", "script"):
                assert not runs(volume.mountpoint / "below" / name)
                assert stat.S_IMODE((volume.mountpoint / "below" / name).stat().st_mode) == 0o755
            assert (volume.mountpoint / "below/script").read_text() == "#!/bin/sh\n"
            volume.awaited(
                lambda r: (r.op, r.path, r.result) == ("open", "/below/script", "EACCES")
            )


def test_a_mount_below_that_is_read_only(place: Path, level: str) -> None:
    with mounted(place / "source/below"):
        mount("", str(place / "source/below"), "", 32 | 1, "")
        with serve(place, level) as volume:
            (volume.mountpoint / "file").write_text("")
            with pytest.raises(OSError, match="Read-only") as raised:
                (volume.mountpoint / "below/file").write_text("")
            assert raised.value.errno == errno.EROFS


def test_statfs_is_of_the_file_system_that_is_asked_for(place: Path, level: str) -> None:
    with (
        mounted(place / "source/below") as below,
        mounted(below / "more", data="size=1m"),
        serve(place, level) as volume,
    ):
        for name in ("below/more", "below", "", "below/more"):
            ours = os.statvfs(volume.mountpoint / name)
            native = os.statvfs(volume.source / name)
            assert (ours.f_blocks, ours.f_files) == (native.f_blocks, native.f_files)
        (volume.mountpoint / "below/file").touch()
        assert os.statvfs(volume.mountpoint / "below/file").f_blocks == 2048
        fd = os.open(volume.mountpoint / "below/more", os.O_RDONLY)
        assert os.fstatvfs(fd).f_blocks == 256
        os.close(fd)
    if level == "all":
        told = [r.path for r in volume.records() if r.op == "statfs"]
        assert {"/", "/below", "/below/more", "/below/file"} <= set(told)
