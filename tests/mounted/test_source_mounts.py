"""Sources that have mounts below them, and what their mounts forbid."""

import errno
import os
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from fusevol.linux.mountinfo import mount_at
from fusevol.linux.mounts import MNT_DETACH, MS_BIND, MS_NOEXEC, MS_NOSYMFOLLOW, mount, umount
from fusevol.mounts import registry
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
    # Not in `place`: who serves may still write to it when the mount has ended.
    log = place.with_name(f"{secrets.token_hex(4)}.log")
    return serving(place / "source", place / "mount", log, level, options)


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
    assert (
        f"the whole volume is noexec, because {place}/source/below, which is below the source, is"
        in done.stderr
    )
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


@pytest.fixture
def twice(place: Path) -> Iterator[Path]:
    """A source that has directory `a` also as `b/a`, and itself as `up/again`."""
    source = place / "source"
    for name in ("a/sub", "b/a", "up/again"):
        (source / name).mkdir(parents=True)
    (source / "a/sub/file").write_text("text")
    with bound(source / "a", source / "b/a"), bound(source, source / "up/again"):
        yield source


@pytest.mark.parametrize("kill", [False, True], ids=["", "killed"])
def test_a_directory_at_two_places_has_two_paths(
    place: Path, level: str, twice: Path, kill: bool
) -> None:
    with serve(place, level) as volume:
        top = volume.mountpoint
        first, second = (os.open(top / name, os.O_RDONLY) for name in ("a/sub", "b/a/sub"))
        again = os.open(top / "up/again/b", os.O_RDONLY)
        if kill:
            kill_worker(volume)
        assert os.listdir(top / "b/a") == os.listdir(top / "a") == ["sub"]
        assert os.listdir(top / "b/a/sub") == os.listdir(top / "a/sub") == ["file"]
        assert path_of(first) == f"{top}/a/sub"
        assert path_of(second) == f"{top}/b/a/sub"
        assert path_of(again) == f"{top}/up/again/b"
        assert sorted(os.listdir(again)) == sorted(os.listdir(twice / "up/again/b"))
        for directory, name in ((first, "one"), (second, "two")):
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=directory))
        for directory in (first, second):
            assert sorted(os.listdir(directory)) == ["file", "one", "two"]
        os.unlink("two", dir_fd=first)
        os.rename("one", "three", src_dir_fd=second, dst_dir_fd=second)
        assert sorted(os.listdir(twice / "a/sub")) == ["file", "three"]
        for fd in (first, second, again):
            os.close(fd)
        told = {(record.op, record.path) for record in volume.records()}
        assert told >= {
            ("create", "/a/sub/one"), ("create", "/b/a/sub/two"), ("unlink", "/a/sub/two"),
            ("rename", "/b/a/sub/one"),
        }  # fmt: skip


def path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def kill_worker(volume: Served) -> None:
    entry = registry.get(str(volume.mountpoint))
    assert entry is not None
    os.kill(entry.worker, signal.SIGKILL)


def find(directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["find", directory], capture_output=True, text=True, check=False)


def test_an_ancestor_inside_is_seen_as_natively(place: Path, level: str, twice: Path) -> None:
    with serve(place, level) as volume:
        for path in ("", "up", "up/again", "up/again/up/again", "up/again/a/sub/file", "b/a/sub"):
            ours, theirs = volume.mountpoint / path, twice / path
            # Twice, the second time from what the kernel was told with the name.
            for _ in range(2):
                assert ours.stat().st_ino == theirs.stat().st_ino
        walked = find(volume.mountpoint)
        native = find(twice)
        assert walked.stderr.count("loop detected") == native.stderr.count("loop detected") == 1
        assert walked.stdout.replace(str(volume.mountpoint), str(twice)).split() == (
            native.stdout.split()
        )


def test_no_rename_and_no_link_leads_to_another_mount(place: Path, level: str, twice: Path) -> None:
    with serve(place, level) as volume:
        for top in (twice, volume.mountpoint):
            for call in (os.rename, os.link):
                with pytest.raises(OSError, match="cross-device") as raised:
                    call(top / "a/sub/file", top / "b/a/new")
                assert raised.value.errno == errno.EXDEV
            for name in ("b/a", "up/again"):
                with pytest.raises(OSError, match="busy"):
                    (top / name).rmdir()
            os.link(top / "b/a/sub/file", top / "b/a/new")
            os.rename(top / "a/new", top / "a/newer")
            assert (top / "b/a/newer").stat().st_nlink == 2
            (top / "b/a/newer").unlink()


def test_what_lost_its_name_at_a_second_place_can_still_be_used(
    place: Path, level: str, twice: Path
) -> None:
    with serve(place, level) as volume:
        fd = os.open(volume.mountpoint / "b/a/sub/file", os.O_RDWR)
        (volume.mountpoint / "a/sub/file").unlink()
        (volume.mountpoint / "a/sub/file").write_text("other")
        kill_worker(volume)
        assert os.pread(fd, 9, 0) == b"text"
        os.close(fd)
        assert (volume.mountpoint / "b/a/sub/file").read_text() == "other"


def test_a_file_system_below_at_two_places(place: Path, level: str) -> None:
    (place / "source/b").mkdir()
    with mounted(place / "source/a") as other, bound(other, place / "source/b"):
        (other / "file").write_text("text")
        with serve(place, level) as volume:
            for name in ("a", "b"):
                fd = os.open(volume.mountpoint / name / "file", os.O_RDONLY)
                assert path_of(fd) == f"{volume.mountpoint}/{name}/file"
                assert os.read(fd, 9) == b"text"
                os.close(fd)
            (volume.mountpoint / "b/file").unlink()
            assert os.listdir(volume.mountpoint / "a") == []


def test_a_file_bound_over_another(place: Path, level: str) -> None:
    source = place / "source"
    for name in ("one", "two", "three"):
        (source / name).write_text(name)
    with bound(source / "one", source / "two"), serve(place, level) as volume:
        for name, text in (("one", "one"), ("two", "one"), ("three", "three")):
            fd = os.open(volume.mountpoint / name, os.O_RDONLY)
            assert (os.read(fd, 9).decode(), path_of(fd)) == (text, f"{volume.mountpoint}/{name}")
            os.close(fd)
        os.rename(volume.mountpoint / "one", volume.mountpoint / "four")
        assert (volume.mountpoint / "two").read_text() == "one"
        with pytest.raises(OSError, match="busy"):
            os.rename(volume.mountpoint / "three", volume.mountpoint / "two")
