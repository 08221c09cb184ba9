"""Names: hard and symbolic links, special files, renames, odd and long names, deep trees."""

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from fusevol.linux.files import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, renameat2
from tests.mounted.checks.table import check, fails_with, link_descriptor, opened
from tests.patience import PATIENCE_S

_AT_FDCWD: Final = -100


def rename_with(old: Path, new: Path, flags: int) -> None:
    renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags)


@check
def hard_links_share_one_inode(directory: Path) -> None:
    first = directory / "first"
    first.write_text("shared")
    (directory / "sub").mkdir()
    second = directory / "sub" / "second"
    second.hardlink_to(first)
    assert first.stat().st_ino == second.stat().st_ino
    assert first.stat().st_nlink == second.stat().st_nlink == 2
    second.write_text("changed by the other name")
    assert first.read_text() == "changed by the other name"
    second.chmod(0o640)
    assert stat.S_IMODE(first.stat().st_mode) == 0o640
    first.unlink()
    assert second.stat().st_nlink == 1
    assert second.read_text() == "changed by the other name"


@check
def hard_link_to_a_symbolic_link(directory: Path) -> None:
    link = directory / "link"
    link.symlink_to("nowhere")
    os.link(link, directory / "other", follow_symlinks=False)
    assert os.readlink(directory / "other") == "nowhere"
    assert link.lstat().st_nlink == 2


@check
def hard_link_of_an_open_descriptor(directory: Path) -> None:
    with opened(directory / "file", os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"x")
        link_descriptor(fd, directory / "linked")
    assert (directory / "linked").read_bytes() == b"x"


@check
def hard_links_refused(directory: Path) -> None:
    (directory / "file").touch()
    (directory / "sub").mkdir()
    with fails_with(errno.EEXIST):
        os.link(directory / "file", directory / "sub")
    with fails_with(errno.EPERM):
        os.link(directory / "sub", directory / "other")
    with fails_with(errno.ENOENT):
        os.link(directory / "missing", directory / "other")


@check
def symbolic_links(directory: Path) -> None:
    (directory / "target").write_text("here")
    link = directory / "link"
    link.symlink_to("target")
    assert os.readlink(link) == "target"
    assert link.read_text() == "here"
    assert link.lstat().st_size == len("target")
    assert stat.S_ISLNK(link.lstat().st_mode)
    dangling = directory / "dangling"
    dangling.symlink_to("/does/not/exist")
    with fails_with(errno.ENOENT):
        dangling.stat()
    with fails_with(errno.EEXIST):
        os.open(dangling, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    inside = directory / "inside"
    inside.symlink_to("made-through-the-link")
    inside.write_text("made")
    assert (directory / "made-through-the-link").read_text() == "made"


@check
def symbolic_link_of_the_longest_target(directory: Path) -> None:
    target = b"t" * 4095
    os.symlink(target, os.fsencode(directory / "link"))
    assert os.readlink(os.fsencode(directory / "link")) == target
    assert (directory / "link").lstat().st_size == 4095
    with fails_with(errno.ENAMETOOLONG):
        os.symlink(b"t" * 4096, os.fsencode(directory / "longer"))
    with fails_with(errno.ENOENT):
        os.symlink(b"", os.fsencode(directory / "empty"))


@check
def symbolic_link_attributes_are_its_own(directory: Path) -> None:
    (directory / "target").touch()
    link = directory / "link"
    link.symlink_to("target")
    os.chown(link, 1234, 2345, follow_symlinks=False)
    os.utime(link, ns=(11, 22), follow_symlinks=False)
    status = link.lstat()
    assert (status.st_uid, status.st_gid) == (1234, 2345)
    assert status.st_mtime_ns == 22
    assert (directory / "target").stat().st_uid == 0
    assert (directory / "target").stat().st_mtime_ns != 22


@check
def symbolic_link_loops(directory: Path) -> None:
    (directory / "a").symlink_to("b")
    (directory / "b").symlink_to("a")
    with fails_with(errno.ELOOP):
        os.open(directory / "a", os.O_RDONLY)
    with fails_with(errno.ELOOP):
        os.open(directory / "a", os.O_RDONLY | os.O_NOFOLLOW)
    with opened(directory / "a", os.O_PATH | os.O_NOFOLLOW) as fd:
        assert stat.S_ISLNK(os.fstat(fd).st_mode)
        assert os.readlink(b"", dir_fd=fd) == b"b"


@check
def socket_carries_a_message(directory: Path) -> None:
    path = directory / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.settimeout(PATIENCE_S)
        server.bind(str(path))
        assert stat.S_ISSOCK(path.lstat().st_mode)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"hello", str(path))
        assert server.recv(16) == b"hello"
    with fails_with(errno.ENXIO):
        os.open(path, os.O_RDONLY)
    path.unlink()
    with fails_with(errno.ENOENT):
        path.lstat()


@check
def fifo_carries_a_message(directory: Path) -> None:
    path = directory / "fifo"
    os.mkfifo(path, 0o600)
    assert stat.S_ISFIFO(path.stat().st_mode)
    with fails_with(errno.ENXIO):
        os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    with (
        opened(path, os.O_RDONLY | os.O_NONBLOCK) as reading,
        opened(path, os.O_WRONLY | os.O_NONBLOCK) as writing,
    ):
        os.write(writing, b"through")
        assert os.read(reading, 16) == b"through"


@check
def device_nodes(directory: Path) -> None:
    null = directory / "null"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    status = null.stat()
    assert stat.S_ISCHR(status.st_mode)
    assert status.st_rdev == os.makedev(1, 3)
    assert null.read_bytes() == b""
    null.write_bytes(b"swallowed")
    os.mknod(directory / "block", stat.S_IFBLK | 0o600, os.makedev(259, 70000))
    assert stat.S_ISBLK((directory / "block").stat().st_mode)
    assert (directory / "block").stat().st_rdev == os.makedev(259, 70000)


@check
def mknod_makes_regular_files(directory: Path) -> None:
    os.mknod(directory / "file", stat.S_IFREG | 0o640)
    status = (directory / "file").stat()
    assert stat.S_ISREG(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o640
    with fails_with(errno.EEXIST):
        os.mknod(directory / "file", stat.S_IFREG | 0o640)


@check
def names_are_bytes(directory: Path) -> None:
    names = [
        b"\xff\xfe",
        b"caf\xe9",
        "café".encode(),
        b"new\nline",
        b"\\xff",
        b" ",
        b"%41",
        b"\x01",
    ]
    for name in names:
        path = os.path.join(os.fsencode(directory), name)
        with opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
            os.write(fd, name)
    assert sorted(os.listdir(os.fsencode(directory))) == sorted(names)
    for name in names:
        path = os.path.join(os.fsencode(directory), name)
        with opened(path, os.O_RDONLY) as fd:
            assert os.read(fd, 100) == name
        os.rename(path, path + b"\x80")
        os.unlink(path + b"\x80")
    assert os.listdir(directory) == []


@check
def names_of_255_bytes(directory: Path) -> None:
    longest = directory / ("n" * 255)
    longest.mkdir()
    (longest / ("f" * 255)).write_text("deep")
    assert os.listdir(longest) == ["f" * 255]
    too_long = directory / ("n" * 256)
    with fails_with(errno.ENAMETOOLONG):
        too_long.mkdir()
    with fails_with(errno.ENAMETOOLONG):
        os.open(too_long, os.O_RDONLY | os.O_CREAT)
    with fails_with(errno.ENAMETOOLONG):
        too_long.stat()
    with fails_with(errno.ENAMETOOLONG):
        longest.rename(too_long)
    with fails_with(errno.ENAMETOOLONG):
        os.symlink("x", too_long)


@check
def trees_deeper_than_the_longest_path(directory: Path) -> None:
    levels = 600
    name = "a-twenty-bytes-long-n"
    fds = [os.open(directory, os.O_RDONLY | os.O_DIRECTORY)]
    try:
        for _ in range(levels):
            os.mkdir(name, dir_fd=fds[-1])
            fds.append(os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fds[-1]))
        bottom = os.open("file", os.O_RDWR | os.O_CREAT, 0o600, dir_fd=fds[-1])
        os.write(bottom, b"deep down")
        assert os.pread(bottom, 20, 0) == b"deep down"
        os.close(bottom)
        assert os.listdir(fds[-1]) == ["file"]
        above = os.stat("..", dir_fd=fds[-1])
        assert above.st_ino == os.fstat(fds[-2]).st_ino
        os.unlink("file", dir_fd=fds[-1])
        for fd in reversed(fds[:-1]):
            os.rmdir(name, dir_fd=fd)
    finally:
        for fd in fds:
            os.close(fd)
    assert os.listdir(directory) == []


@check
def rename_replaces(directory: Path) -> None:
    (directory / "old").write_text("old")
    (directory / "new").write_text("new")
    ino = (directory / "old").stat().st_ino
    (directory / "old").rename(directory / "new")
    assert os.listdir(directory) == ["new"]
    assert (directory / "new").read_text() == "old"
    assert (directory / "new").stat().st_ino == ino


@check
def rename_of_one_hard_link_over_the_other_does_nothing(directory: Path) -> None:
    (directory / "a").write_text("x")
    (directory / "b").hardlink_to(directory / "a")
    (directory / "a").rename(directory / "b")
    assert sorted(os.listdir(directory)) == ["a", "b"]
    (directory / "b").unlink()
    assert (directory / "a").read_text() == "x"
    assert (directory / "a").stat().st_nlink == 1


@check
def rename_over_open_files(directory: Path) -> None:
    (directory / "old").write_bytes(b"replaced")
    (directory / "new").write_bytes(b"fresh")
    with (
        opened(directory / "old", os.O_RDWR) as old,
        opened(directory / "new", os.O_RDWR) as new,
    ):
        (directory / "new").rename(directory / "old")
        assert os.pread(old, 20, 0) == b"replaced"
        assert os.fstat(old).st_nlink == 0
        os.pwrite(old, b"REP", 0)
        assert os.pread(old, 20, 0) == b"REPlaced"
        os.pwrite(new, b"FRE", 0)
        assert (directory / "old").read_bytes() == b"FREsh"
        assert os.fstat(new).st_nlink == 1


@check
def rename_refused(directory: Path) -> None:
    (directory / "file").touch()
    (directory / "empty").mkdir()
    full = directory / "full"
    full.mkdir()
    (full / "entry").mkdir()
    with fails_with(errno.ENOTDIR):
        (directory / "empty").rename(directory / "file")
    with fails_with(errno.EISDIR):
        (directory / "file").rename(directory / "empty")
    with fails_with(errno.ENOTEMPTY, errno.EEXIST):
        (directory / "empty").rename(full)
    with fails_with(errno.EINVAL):
        full.rename(full / "entry" / "below")
    with fails_with(errno.ENOENT):
        (directory / "missing").rename(directory / "other")
    with fails_with(errno.ENOTDIR):
        (directory / "file" / "x").rename(directory / "other")
    (directory / "full").rename(directory / "empty")
    assert sorted(os.listdir(directory)) == ["empty", "file"]
    assert os.listdir(directory / "empty") == ["entry"]


@check
def rename_noreplace(directory: Path) -> None:
    (directory / "a").write_text("a")
    (directory / "b").write_text("b")
    with fails_with(errno.EEXIST):
        rename_with(directory / "a", directory / "b", RENAME_NOREPLACE)
    assert (directory / "b").read_text() == "b"
    rename_with(directory / "a", directory / "c", RENAME_NOREPLACE)
    assert sorted(os.listdir(directory)) == ["b", "c"]


@check
def rename_exchange(directory: Path) -> None:
    (directory / "file").write_text("file")
    (directory / "sub").mkdir()
    (directory / "sub" / "inner").write_text("inner")
    (directory / "elsewhere").mkdir()
    rename_with(directory / "file", directory / "sub", RENAME_EXCHANGE)
    assert (directory / "sub").read_text() == "file"
    assert (directory / "file" / "inner").read_text() == "inner"
    rename_with(directory / "sub", directory / "file" / "inner", RENAME_EXCHANGE)
    assert (directory / "sub").read_text() == "inner"
    assert (directory / "file" / "inner").read_text() == "file"
    with fails_with(errno.ENOENT):
        rename_with(directory / "sub", directory / "missing", RENAME_EXCHANGE)
    with fails_with(errno.EINVAL):
        rename_with(directory / "sub", directory / "file", RENAME_EXCHANGE | RENAME_NOREPLACE)


@check
def rename_whiteout(directory: Path) -> None:
    (directory / "a").write_text("a")
    rename_with(directory / "a", directory / "b", RENAME_WHITEOUT)
    assert (directory / "b").read_text() == "a"
    whiteout = (directory / "a").stat()
    assert stat.S_ISCHR(whiteout.st_mode)
    assert whiteout.st_rdev == 0


@check
def directory_moves_with_everything_in_it(directory: Path) -> None:
    below = directory / "a" / "b" / "c"
    below.mkdir(parents=True)
    (below / "file").write_bytes(b"before")
    inside = os.open(below, os.O_RDONLY | os.O_DIRECTORY)
    home = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    with opened(below / "file", os.O_RDWR) as fd:
        os.chdir(below)
        try:
            (directory / "other").mkdir()
            (directory / "a").rename(directory / "other" / "moved")
            os.pwrite(fd, b"AFTER!", 0)
            assert Path("file").read_bytes() == b"AFTER!"
            assert os.getcwd() == str(directory / "other" / "moved" / "b" / "c")
            Path("made-after").write_text("x")
            os.mkdir("sub", dir_fd=inside)
            assert sorted(os.listdir(inside)) == ["file", "made-after", "sub"]
            assert os.stat("../../..").st_ino == (directory / "other").stat().st_ino
        finally:
            os.fchdir(home)
            os.close(home)
            os.close(inside)
    moved = directory / "other" / "moved" / "b" / "c"
    assert sorted(os.listdir(moved)) == ["file", "made-after", "sub"]
    assert (moved / "file").read_bytes() == b"AFTER!"


@check
def wrong_types_and_missing_names(directory: Path) -> None:
    (directory / "file").write_text("x")
    (directory / "sub").mkdir()
    (directory / "sub" / "entry").touch()
    with fails_with(errno.ENOTDIR):
        os.open(directory / "file" / "below", os.O_RDONLY)
    with fails_with(errno.ENOTDIR):
        os.listdir(directory / "file")
    with fails_with(errno.ENOTDIR):
        os.rmdir(directory / "file")
    with fails_with(errno.ENOTDIR):
        os.open(directory / "file", os.O_RDONLY | os.O_DIRECTORY)
    with fails_with(errno.EISDIR):
        os.open(directory / "sub", os.O_WRONLY)
    with fails_with(errno.EISDIR):
        os.unlink(directory / "sub")
    with fails_with(errno.EISDIR):
        os.truncate(directory / "sub", 0)
    with fails_with(errno.ENOTEMPTY):
        os.rmdir(directory / "sub")
    with fails_with(errno.EEXIST):
        os.mkdir(directory / "sub")
    with fails_with(errno.EEXIST):
        os.mkdir(directory / "file")
    with fails_with(errno.ENOENT):
        os.open(directory / "missing", os.O_RDONLY)
    with fails_with(errno.ENOENT):
        os.unlink(directory / "missing")
    with fails_with(errno.ENOENT):
        os.rmdir(directory / "missing")
    with fails_with(errno.EINVAL):
        os.readlink(directory / "file")
    with fails_with(errno.EINVAL):
        os.rmdir(f"{directory}/sub/.")
    with fails_with(errno.ENOTEMPTY):
        os.rmdir(f"{directory}/sub/..")


@check
def other_file_systems_are_no_place_to_link_or_rename_to(directory: Path) -> None:
    (directory / "file").touch()
    elsewhere = f"/dev/shm/fusevol-{os.getpid()}"
    with fails_with(errno.EXDEV):
        os.link(directory / "file", elsewhere)
    with fails_with(errno.EXDEV):
        os.rename(directory / "file", elsewhere)
    with fails_with(errno.EXDEV):
        os.link("/proc/self/status", directory / "linked")
