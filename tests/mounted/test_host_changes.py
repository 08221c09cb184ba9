"""The host changes the source while the mount is in use."""

import errno
import itertools
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self

import pytest

from fusevol.linux.files import RENAME_EXCHANGE
from tests.mounted.checks.names import rename_with
from tests.mounted.checks.table import fails_with, may_fail_with, opened
from tests.mounted.mounting import Served, serving, tmpfs

_RACE_S: Final = 2.0
_numbers: Final = itertools.count()
_SECRET: Final = b"outside"


class Pair(NamedTuple):
    """One directory, as the host sees it and as clients of the mount do."""

    host: Path
    client: Path
    served: Served

    def soon(self, holds: Callable[[], bool]) -> None:
        """Hold that it is so at once, or at level `data` after the time allowed there."""
        if holds():
            return
        end = time.monotonic() + self.served.stale_for_s
        while time.monotonic() < end:
            time.sleep(0.01)
            if holds():
                return
        raise AssertionError(f"clients do not see it after {self.served.stale_for_s} s")


@pytest.fixture
def pair(served: Served, request: pytest.FixtureRequest) -> Pair:
    """A new directory, named after the test."""
    name = request.node.name.partition("[")[0]
    host = served.source / f"{name}-{next(_numbers)}"
    host.mkdir()
    return Pair(host, served.mountpoint / host.name, served)


def exists(path: Path) -> Callable[[], bool]:
    return lambda: os.path.lexists(path)


def test_created_on_the_host(pair: Pair) -> None:
    assert not (pair.client / "file").exists()
    assert not (pair.client / "sub").exists()
    (pair.host / "file").write_text("content")
    (pair.host / "sub").mkdir()
    (pair.host / "sub" / "inner").write_text("inner")
    pair.soon((pair.client / "file").exists)
    pair.soon((pair.client / "sub" / "inner").exists)
    assert (pair.client / "file").read_text() == "content"
    assert sorted(os.listdir(pair.client)) == ["file", "sub"]


def test_removed_on_the_host(pair: Pair) -> None:
    (pair.client / "file").write_text("content")
    (pair.client / "sub").mkdir()
    (pair.client / "sub" / "inner").touch()
    assert os.listdir(pair.client / "sub") == ["inner"]
    (pair.host / "file").unlink()
    (pair.host / "sub" / "inner").unlink()
    (pair.host / "sub").rmdir()
    for name in ("file", "sub/inner", "sub"):
        pair.soon(lambda name=name: not (pair.client / name).exists())  # type: ignore[misc]
    assert os.listdir(pair.client) == []
    (pair.client / "file").write_text("new")
    assert (pair.host / "file").read_text() == "new"


def test_removed_on_the_host_while_open(pair: Pair) -> None:
    (pair.client / "file").write_text("content")
    with opened(pair.client / "file", os.O_RDWR) as fd:
        (pair.host / "file").unlink()
        assert os.pread(fd, 10, 0) == b"content"
        os.pwrite(fd, b"C", 0)
        assert os.pread(fd, 10, 0) == b"Content"
        pair.soon(lambda: os.fstat(fd).st_nlink == 0)


def test_modified_on_the_host(pair: Pair) -> None:
    path = pair.client / "file"
    path.write_bytes(b"a" * 10_000)
    assert path.read_bytes() == b"a" * 10_000
    for content in (b"b" * 10_000, b"c" * 20_000, b"d" * 5, b""):
        (pair.host / "file").write_bytes(content)
        pair.soon(lambda content=content: path.stat().st_size == len(content))  # type: ignore[misc]
        assert path.read_bytes() == content
    (pair.host / "file").write_bytes(b"e" * 100)
    pair.soon(lambda: path.read_bytes() == b"e" * 100)


def test_modified_on_the_host_while_open(pair: Pair) -> None:
    path = pair.client / "file"
    path.write_bytes(b"a" * 100)
    with opened(path, os.O_RDONLY) as fd:
        assert os.pread(fd, 200, 0) == b"a" * 100
        with opened(pair.host / "file", os.O_WRONLY) as host:
            os.pwrite(host, b"b" * 200, 0)
        pair.soon(lambda: os.fstat(fd).st_size == 200)
        if pair.served.level == "all":
            assert os.pread(fd, 300, 0) == b"b" * 200
        with opened(path, os.O_RDONLY) as again:
            assert os.pread(again, 300, 0) == b"b" * 200


def test_attributes_changed_on_the_host(pair: Pair) -> None:
    path = pair.client / "file"
    path.touch(mode=0o644)
    (pair.host / "file").chmod(0o600)
    pair.soon(lambda: stat.S_IMODE(path.stat().st_mode) == 0o600)
    os.chown(pair.host / "file", 12, 34)
    pair.soon(lambda: (path.stat().st_uid, path.stat().st_gid) == (12, 34))
    os.utime(pair.host / "file", ns=(1, 2))
    pair.soon(lambda: path.stat().st_mtime_ns == 2)
    os.setxattr(pair.host / "file", "user.x", b"y")
    assert os.getxattr(path, "user.x") == b"y"


def test_renamed_on_the_host(pair: Pair) -> None:
    (pair.client / "old").write_text("content")
    with opened(pair.client / "old", os.O_RDWR) as fd:
        (pair.host / "old").rename(pair.host / "new")
        pair.soon(lambda: not (pair.client / "old").exists())
        pair.soon((pair.client / "new").exists)
        assert (pair.client / "new").read_text() == "content"
        os.pwrite(fd, b"C", 0)
        assert os.fstat(fd).st_ino == (pair.client / "new").stat().st_ino
    assert (pair.host / "new").read_text() == "Content"


def test_path_descriptor_of_what_is_renamed_on_the_host(pair: Pair) -> None:
    (pair.host / "old").write_text("content")
    with opened(pair.client / "old", os.O_PATH) as fd:
        ino = os.fstat(fd).st_ino
        (pair.host / "old").rename(pair.host / "new")
        if pair.served.stale_for_s:
            time.sleep(pair.served.stale_for_s)
        with may_fail_with(errno.ESTALE):
            assert os.fstat(fd).st_ino == ino
        # If nothing led to the object but its name: once clients find the new one, all is well.
        assert (pair.client / "new").stat().st_ino == ino
        assert os.fstat(fd).st_ino == ino


def test_replaced_on_the_host(pair: Pair) -> None:
    path = pair.client / "file"
    path.write_text("old content")
    with opened(path, os.O_RDONLY) as fd:
        (pair.host / "next").write_text("new")
        (pair.host / "next").rename(pair.host / "file")
        pair.soon(lambda: path.read_text() == "new")
        assert os.pread(fd, 20, 0) == b"old content"
        pair.soon(lambda: os.fstat(fd).st_nlink == 0)
        assert path.stat().st_ino != os.fstat(fd).st_ino


def test_directory_renamed_on_the_host(pair: Pair) -> None:
    below = pair.client / "a" / "b"
    below.mkdir(parents=True)
    (below / "file").write_text("content")
    with (
        opened(below, os.O_RDONLY | os.O_DIRECTORY) as inside,
        opened(below / "file", os.O_RDWR) as fd,
    ):
        (pair.host / "a").rename(pair.host / "moved")
        pair.soon(lambda: not (pair.client / "a").exists())
        pair.soon((pair.client / "moved" / "b" / "file").exists)
        assert os.listdir(inside) == ["file"]
        os.mkdir("sub", dir_fd=inside)
        with opened_at("file", inside) as by_directory:
            assert os.read(by_directory, 20) == b"content"
        os.pwrite(fd, b"C", 0)
        (pair.client / "a").mkdir()
        (pair.client / "a" / "b").mkdir()
        os.close(os.open("late", os.O_CREAT | os.O_WRONLY, dir_fd=inside))
    assert sorted(os.listdir(pair.host / "moved" / "b")) == ["file", "late", "sub"]
    assert os.listdir(pair.host / "a" / "b") == []
    assert (pair.host / "moved" / "b" / "file").read_text() == "Content"


@contextmanager
def opened_at(name: str, directory: int) -> Iterator[int]:
    fd = os.open(name, os.O_RDONLY, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


def test_directories_exchanged_on_the_host(pair: Pair) -> None:
    for name in ("a", "b"):
        (pair.client / name).mkdir()
        (pair.client / name / "file").write_text(name)
        assert (pair.client / name / "file").read_text() == name
    rename_with(pair.host / "a", pair.host / "b", RENAME_EXCHANGE)
    pair.soon(lambda: (pair.client / "a" / "file").read_text() == "b")
    pair.soon(lambda: (pair.client / "b" / "file").read_text() == "a")
    (pair.client / "a" / "made").touch()
    assert (pair.host / "a" / "made").exists()


def test_directories_nested_the_other_way_round_on_the_host(pair: Pair) -> None:
    """What is known of either of them must not make each the parent of the other."""
    (pair.client / "outer" / "inner").mkdir(parents=True)
    with opened(pair.client / "outer" / "inner", os.O_RDONLY | os.O_DIRECTORY) as inner:
        (pair.host / "outer" / "inner").rename(pair.host / "inner")
        (pair.host / "outer").rename(pair.host / "inner" / "outer")
        # The kernel refuses to see a directory that it knows above another one below it.
        with may_fail_with(errno.ELOOP):
            assert stat.S_ISDIR(os.stat("outer", dir_fd=inner).st_mode)
        assert os.listdir(inner) == ["outer"]
        os.mkdir("made", dir_fd=inner)
    pair.soon((pair.client / "inner" / "outer").is_dir)
    pair.soon((pair.client / "inner" / "made").is_dir)
    (pair.client / "inner" / "made").rename(pair.client / "last")
    shutil.rmtree(pair.client / "inner")
    assert os.listdir(pair.host) == ["last"]


def test_entries_come_and_go_while_clients_read(pair: Pair) -> None:
    staying = {f"stays-{number}" for number in range(1500)}
    for name in staying:
        (pair.host / name).touch()
    with os.scandir(pair.client) as entries:
        seen = [next(entries).name for _ in range(10)]
        for number in range(500):
            (pair.host / f"comes-{number}").touch()
        seen += [entry.name for entry in entries]
    assert len(seen) == len(set(seen))
    assert {name for name in seen if name.startswith("stays")} == staying


def test_reused_inode_numbers_show_no_old_content(pair: Pair) -> None:
    """The host gives the number of a removed file to the next one."""
    path = pair.client / "file"
    seen_before: set[int] = set()
    reused = 0
    for number in range(60):
        content = f"{number:04}".encode() * 25
        host = pair.host / "file"
        host.write_bytes(content)
        ino = host.stat().st_ino
        reused += ino in seen_before
        seen_before.add(ino)
        os.utime(host, ns=(1_000_000_000, 1_000_000_000))
        pair.soon(lambda content=content: _read_or_none(path) == content)  # type: ignore[misc]
        assert path.read_bytes() == content
        assert path.read_bytes() == content
        host.unlink()
    if not reused:
        pytest.skip("this file system did not reuse an inode number")


def _read_or_none(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def test_reused_inode_numbers_show_no_old_type_or_attributes(pair: Pair) -> None:
    """Each kind gets the number of the one before it."""
    path = pair.client / "entry"
    host = pair.host / "entry"
    makers: tuple[Callable[[], object], ...] = (
        lambda: host.mkdir(mode=0o711),
        lambda: host.symlink_to("target"),
        lambda: host.write_bytes(b"content"),
        lambda: os.mkfifo(host, 0o604),
        lambda: host.write_bytes(b"other"),
    )
    for number in range(40 if pair.served.level == "all" else 10):
        makers[number % len(makers)]()
        wanted = host.lstat()

        def shown(wanted: os.stat_result = wanted) -> bool:
            if not os.path.lexists(path):
                return False
            got = path.lstat()
            return (got.st_mode, got.st_size, got.st_ctime_ns) == (
                wanted.st_mode,
                wanted.st_size,
                wanted.st_ctime_ns,
            )

        pair.soon(shown)
        if stat.S_ISREG(wanted.st_mode):
            assert path.read_bytes() == host.read_bytes()
            os.setxattr(path, "user.x", b"y")
            host.unlink()
        elif stat.S_ISLNK(wanted.st_mode):
            assert os.readlink(path) == "target"
            host.unlink()
        elif stat.S_ISDIR(wanted.st_mode):
            assert os.listdir(path) == []
            (path / "inside").touch()
            (host / "inside").unlink()
            host.rmdir()
        else:
            host.unlink()


def test_reused_inode_number_of_an_open_file(pair: Pair) -> None:
    path = pair.client / "file"
    for number in range(10 if pair.served.level == "all" else 3):
        content = f"{number}" * 100
        (pair.host / "file").write_text(content)
        pair.soon(lambda content=content: path.read_text() == content)  # type: ignore[misc]
        with opened(path, os.O_RDWR) as fd:
            (pair.host / "file").unlink()
            (pair.host / "file").write_text("intruder")
            pair.soon(lambda: path.read_text() == "intruder")
            assert os.pread(fd, 100, 0) == content.encode()
            assert path.stat().st_ino != os.fstat(fd).st_ino
        (pair.host / "file").unlink()


class Swapper:
    """Puts two things under one name in turns, as fast as it can."""

    def __init__(self, one: Path, other: Path, name: Path) -> None:
        self._turns = (one, other)
        self._name = name
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.turns = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        # Each of the two has a place of its own, so an exchange puts one in and the other out.
        one, other = self._turns
        one.rename(self._name)
        while not self._over.is_set():
            rename_with(self._name, other, RENAME_EXCHANGE)
            self.turns += 1


def _outside(pair: Pair) -> Path:
    outside = pair.served.log.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "file").write_bytes(_SECRET)
    return outside


@pytest.mark.parametrize("swapper_is", ["host", "client"])
def test_symbolic_link_swapped_in_never_leads_outside(
    pair: Pair, swapper_is: str, served: Served
) -> None:
    """A client that follows the link itself ends up on the host: O_NOFOLLOW keeps it from that."""
    outside = _outside(pair)
    side = pair.host / swapper_is if swapper_is == "host" else pair.client / swapper_is
    client = pair.client / swapper_is
    (pair.host / swapper_is).mkdir()
    (side / "regular").write_bytes(b"inside")
    (side / "link").symlink_to(outside / "file")
    opens = reads = 0
    with Swapper(side / "regular", side / "link", side / "file") as swapper:
        end = time.monotonic() + _RACE_S / 2
        while time.monotonic() < end:
            opens += 1
            with (
                may_fail_with(errno.ELOOP, errno.ENOENT, errno.ESTALE),
                opened(client / "file", os.O_RDWR | os.O_NOFOLLOW) as fd,
            ):
                assert os.pread(fd, 20, 0) == b"inside"
                os.pwrite(fd, b"inside", 0)
                reads += 1
    assert (outside / "file").read_bytes() == _SECRET
    assert opens > 20
    assert swapper.turns > 20
    assert reads or served.level == "data"  # there one look-up lasts for the whole race


def test_directory_swapped_for_a_link_never_leads_outside(pair: Pair) -> None:
    outside = _outside(pair)
    before = sorted(os.listdir(outside))
    mode = (outside / "file").stat().st_mode
    (pair.host / "directory").mkdir()
    (pair.host / "directory" / "file").write_bytes(b"inside")
    (pair.host / "link").symlink_to(outside)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    tries = done = 0
    (pair.host / "name").mkdir()
    (pair.host / "name" / "file").write_bytes(b"inside")
    fd = os.open(pair.client / "name", os.O_RDONLY | os.O_DIRECTORY)
    (pair.host / "name").rename(pair.host / "first")
    with Swapper(pair.host / "directory", pair.host / "link", pair.host / "name"):
        end = time.monotonic() + _RACE_S
        while time.monotonic() < end:
            tries += 1
            with (
                may_fail_with(errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.ESTALE),
                opened(pair.client / "name", flags) as directory,
            ):
                with opened_at("file", directory) as inside:
                    assert os.read(inside, 20) == b"inside"
                os.chmod("file", 0o640, dir_fd=directory)
                os.close(os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
                os.unlink("made", dir_fd=directory)
                done += 1
    os.mkdir("late", dir_fd=fd)
    os.close(fd)
    assert (pair.host / "first" / "late").is_dir()
    assert sorted(os.listdir(outside)) == before
    assert (outside / "file").stat().st_mode == mode
    assert (outside / "file").read_bytes() == _SECRET
    assert tries > 20
    assert done


def test_fifo_swapped_in_holds_nobody_up(pair: Pair) -> None:
    (pair.host / "regular").write_bytes(b"inside")
    os.mkfifo(pair.host / "fifo")
    reads = 0
    with Swapper(pair.host / "regular", pair.host / "fifo", pair.host / "file") as swapper:
        end = time.monotonic() + _RACE_S
        while time.monotonic() < end:
            with (
                may_fail_with(errno.ENOENT, errno.ESTALE, errno.ENXIO),
                opened(pair.client / "file", os.O_RDONLY | os.O_NONBLOCK) as fd,
            ):
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    assert os.read(fd, 20) == b"inside"
                    reads += 1
    assert swapper.turns > 20
    assert reads or pair.served.level == "data"  # as above


@pytest.mark.parametrize("level", ["all", "data"])
def test_file_systems_below_the_source(module_workspace: Path, level: str) -> None:
    base = module_workspace / f"below-{level}"
    source = base / "source"
    mountpoint = base / "mount"
    (source / "inner" / "deeper").mkdir(parents=True)
    mountpoint.mkdir()
    with tmpfs(source / "inner"), tmpfs(source / "inner" / "deeper"):
        (source / "file").write_text("outer")
        (source / "inner" / "file").write_text("inner")
        (source / "inner" / "deeper" / "file").write_text("deeper")
        with serving(source, mountpoint, base / "log", level):
            assert (mountpoint / "inner" / "file").read_text() == "inner"
            assert (mountpoint / "inner" / "deeper" / "file").read_text() == "deeper"
            numbers: dict[int, Path] = {}
            for path in (mountpoint, *mountpoint.rglob("*")):
                assert numbers.setdefault(path.stat().st_ino, path) == path
            assert len(numbers) == 6
            with os.scandir(mountpoint / "inner") as entries:
                for entry in entries:
                    assert entry.inode() == entry.stat().st_ino
            with fails_with(errno.EXDEV):
                (mountpoint / "linked").hardlink_to(mountpoint / "inner" / "file")
            with fails_with(errno.EXDEV):
                (mountpoint / "file").rename(mountpoint / "inner" / "moved")
            with fails_with(errno.EBUSY):
                (mountpoint / "inner" / "deeper").rename(mountpoint / "inner" / "moved")
            with fails_with(errno.EBUSY):
                (mountpoint / "inner" / "deeper").rmdir()
            (mountpoint / "inner" / "linked").hardlink_to(mountpoint / "inner" / "file")
            (mountpoint / "inner" / "made").write_text("made")
            assert (source / "inner" / "made").read_text() == "made"
            blocks = os.statvfs(source).f_blocks
            assert os.statvfs(mountpoint).f_blocks == blocks
            # What is mounted later is no part of the volume, and so nothing leads out of it.
            (source / "later").mkdir()
            with tmpfs(source / "later"):
                (source / "later" / "file").touch()
                assert os.listdir(mountpoint / "later") == []


@pytest.mark.parametrize("level", ["all", "data"])
def test_source_that_is_a_single_file(module_workspace: Path, level: str) -> None:
    base = module_workspace / f"single-{level}"
    base.mkdir()
    source = base / "source.txt"
    mountpoint = base / "mount.txt"
    source.write_text("content")
    source.chmod(0o640)
    mountpoint.touch()
    with serving(source, mountpoint, base / "log", level) as served:
        assert mountpoint.read_text() == "content"
        assert stat.S_IMODE(mountpoint.stat().st_mode) == 0o640
        mountpoint.write_text("changed by the client")
        assert source.read_text() == "changed by the client"
        with mountpoint.open("a") as file:
            file.write("!")
        os.truncate(mountpoint, 7)
        assert source.read_text() == "changed"
        source.write_text("changed by the host")
        time.sleep(served.stale_for_s)
        assert mountpoint.read_text() == "changed by the host"
        mountpoint.chmod(0o600)
        os.utime(mountpoint, ns=(1, 2))
        os.setxattr(mountpoint, "user.x", b"y")
        assert os.getxattr(source, "user.x") == b"y"
        assert source.stat().st_mtime_ns == 2
        assert os.statvfs(mountpoint).f_blocks == os.statvfs(source).f_blocks
        with fails_with(errno.EBUSY):
            mountpoint.unlink()
        with fails_with(errno.ENOTDIR):
            os.listdir(mountpoint)
        assert {record.path for record in served.records() if record.op == "write"} == {"/"}
    assert mountpoint.read_text() == ""


@pytest.mark.parametrize("level", ["all", "data"])
def test_few_descriptors(module_workspace: Path, level: str) -> None:
    """More objects than can be kept open, moved and replaced on both sides meanwhile."""
    base = module_workspace / f"few-{level}"
    source = base / "source"
    mountpoint = base / "mount"
    for path in (base, source, mountpoint):
        path.mkdir()
    limit = ("prlimit", "--nofile=160:160")
    with serving(source, mountpoint, base / "log", level, prefix=limit) as served:
        for number in range(200):
            (mountpoint / f"{number}").mkdir()
            (mountpoint / f"{number}" / "file").write_text(f"{number}")
        held = [os.open(mountpoint / f"{number}", os.O_PATH) for number in range(200)]
        try:
            for number in range(0, 200, 2):
                (source / f"{number}").rename(source / f"moved-{number}")
            for number, fd in enumerate(held):
                with opened_at("file", fd) as inside:
                    assert os.read(inside, 20) == b"%d" % number
        finally:
            for fd in held:
                os.close(fd)
        for number in range(1, 200, 2):
            (source / f"{number}" / "file").unlink()
            (source / f"{number}" / "file").write_text("replaced")
        time.sleep(served.stale_for_s)
        for number in range(1, 200, 2):
            path = mountpoint / f"{number}" / "file"
            assert path.read_text() == "replaced"
            path.chmod(0o600)
            os.setxattr(path, "user.x", b"y")
            path.rename(mountpoint / f"{number}" / "renamed")
        for number in range(1, 200, 2):
            assert os.listdir(source / f"{number}") == ["renamed"]


@pytest.mark.parametrize("level", ["all", "data"])
def test_reused_inode_numbers_of_what_is_not_kept_open(module_workspace: Path, level: str) -> None:
    """What clients hold and the mount had to close must not turn into what has its number now."""
    base = module_workspace / f"handles-{level}"
    source = base / "source"
    mountpoint = base / "mount"
    for path in (base, source, mountpoint):
        path.mkdir()
    limit = ("prlimit", "--nofile=160:160")
    with ExitStack() as stack:
        served = stack.enter_context(serving(source, mountpoint, base / "log", level, prefix=limit))
        names = [f"{number}" for number in range(150)]
        for name in names:
            (source / name).write_text("old")
        held = [stack.enter_context(opened(mountpoint / name, os.O_PATH)) for name in names]
        for _ in range(3):  # each takes a descriptor, so that those before are closed
            for name in names:
                (mountpoint / name).chmod(0o600)
        numbers = {(source / name).stat().st_ino for name in names}
        for name in names[:100]:
            (source / name).unlink()
            (source / name).write_text(f"new {name}")
        reused = [name for name in names[:100] if (source / name).stat().st_ino in numbers]
        time.sleep(served.stale_for_s)
        for name in names[:100]:
            assert (mountpoint / name).read_text() == f"new {name}"
            (mountpoint / name).chmod(0o640)
        for fd in held:
            # On the host the old content would still be there; nobody kept it.
            with (
                may_fail_with(errno.ESTALE, errno.ENOENT),
                opened(f"/proc/self/fd/{fd}", os.O_RDONLY) as again,
            ):
                assert os.read(again, 20) == b"old"
    if not reused:
        pytest.skip("this file system did not reuse an inode number")


def test_records_tell_of_it(served: Served) -> None:
    """What clients did is in the log, in the order of `seq` without gaps."""
    (served.mountpoint / "recorded").write_text("x")
    released = served.awaited(lambda r: r.op == "release" and r.path == "/recorded")
    assert released.bytes_written == 1
    numbers = [record.seq for record in served.records()]
    assert numbers == list(range(1, len(numbers) + 1))
