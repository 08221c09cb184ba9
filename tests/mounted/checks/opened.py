"""What is open: removed files, append, truncation, flags of open(2), locks, mapped memory."""

import errno
import fcntl
import mmap
import os
import stat
import subprocess
from pathlib import Path
from typing import Final

from tests.mounted.acting import User, acting_as
from tests.mounted.checks.table import check, fails_with, lacking, link_descriptor, opened
from tests.mounted.io_uring import Ring, has_io_uring
from tests.mounted.mounting import other_process, said_by_other_process

_PAGE: Final = mmap.PAGESIZE


@check
def removed_file_stays_usable_while_open(directory: Path) -> None:
    path = directory / "file"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"content")
        path.unlink()
        assert os.fstat(fd).st_nlink == 0
        assert os.pread(fd, 20, 0) == b"content"
        os.pwrite(fd, b" and more", 7)
        assert os.fstat(fd).st_size == 16
        os.ftruncate(fd, 3)
        assert os.pread(fd, 20, 0) == b"con"
        os.fchmod(fd, 0o600)
        os.fchown(fd, 12, 34)
        os.utime(fd, ns=(5, 6))
        os.setxattr(fd, "user.x", b"y")
        status = os.fstat(fd)
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime_ns) == (0o600, 12, 6)
        assert os.getxattr(fd, "user.x") == b"y"
        os.fsync(fd)
        with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as again:
            assert os.pread(again, 20, 0) == b"con"
            os.pwrite(again, b"CON", 0)
        assert os.pread(fd, 20, 0) == b"CON"
        with fails_with(errno.ENOENT):
            path.stat()
        path.write_text("another file of the same name")
        assert os.pread(fd, 20, 0) == b"CON"
        assert path.stat().st_ino != os.fstat(fd).st_ino


@check
def path_descriptor_of_a_removed_file(directory: Path) -> None:
    path = directory / "file"
    path.write_text("content")
    with opened(path, os.O_PATH) as fd:
        ino = os.fstat(fd).st_ino
        path.unlink()
        assert os.fstat(fd).st_nlink == 0
        assert os.fstat(fd).st_ino == ino
        with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as again:
            assert os.read(again, 20) == b"content"


@check
def path_descriptor_of_a_replaced_file(directory: Path) -> None:
    path = directory / "file"
    path.write_text("old")
    with opened(path, os.O_PATH) as fd:
        (directory / "new").write_text("new")
        (directory / "new").rename(path)
        assert os.fstat(fd).st_nlink == 0
        with opened(f"/proc/self/fd/{fd}", os.O_RDONLY) as again:
            assert os.read(again, 20) == b"old"


@check
def removed_directory_stays_usable_while_open(directory: Path) -> None:
    (directory / "sub").mkdir()
    with opened(directory / "sub", os.O_RDONLY | os.O_DIRECTORY) as fd:
        (directory / "sub").rmdir()
        assert os.fstat(fd).st_nlink == 0
        assert os.listdir(fd) == []
        with fails_with(errno.ENOENT):
            os.mkdir("below", dir_fd=fd)
        with fails_with(errno.ENOENT):
            os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd)


@check
def removed_working_directory(directory: Path) -> None:
    (directory / "sub").mkdir()
    home = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    os.chdir(directory / "sub")
    try:
        (directory / "sub").rmdir()
        assert os.stat(".").st_nlink == 0
        with fails_with(errno.ENOENT):
            os.getcwd()
        with fails_with(errno.ENOENT):
            os.mkdir("below")
    finally:
        os.fchdir(home)
        os.close(home)


_APPEND = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for number in range(300):
    os.write(fd, f"{sys.argv[2]}{number:05}\\n".encode())
"""


@check
def two_processes_append(directory: Path) -> None:
    log = directory / "log"
    log.touch()
    with other_process(_APPEND, log, "a"), other_process(_APPEND, log, "b"):
        pass
    lines = log.read_text().splitlines()
    assert len(lines) == 600
    for who in "ab":
        assert [line for line in lines if line[0] == who] == [f"{who}{n:05}" for n in range(300)]


@check
def append_goes_to_the_end(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"12345")
    with opened(path, os.O_RDWR | os.O_APPEND) as fd:
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"6")
        assert os.lseek(fd, 0, os.SEEK_CUR) == 6
        os.pwrite(fd, b"7", 2)  # Linux appends here as well (pwrite(2), bugs)
        os.ftruncate(fd, 10)
        os.write(fd, b"8")
    assert path.read_bytes() == b"1234567\0\0\0008"


@check
def append_can_be_switched_on_and_off(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"12345")
    with opened(path, os.O_WRONLY) as fd:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        os.write(fd, b"6")
    assert path.read_bytes() == b"123456"
    with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        os.pwrite(fd, b"X", 0)
    assert path.read_bytes() == b"X23456"


@check
def time_of_access_is_left_alone_on_demand(directory: Path) -> None:
    path = directory / "file"
    path.write_text("content")
    long_ago = 10**18
    os.utime(path, ns=(long_ago, 2 * long_ago))
    with opened(path, os.O_RDONLY | os.O_NOATIME) as fd:
        assert os.read(fd, 10) == b"content"
    assert path.stat().st_atime_ns == long_ago
    with opened(path, os.O_RDONLY) as fd:
        assert os.read(fd, 10) == b"content"
    assert path.stat().st_atime_ns > long_ago
    path.chmod(0o666)

    def by_another() -> None:
        with fails_with(errno.EPERM):
            os.open(path, os.O_RDONLY | os.O_NOATIME)

    directory.chmod(0o755)
    acting_as(User(4001, 4001), by_another)
    with opened(directory / "new", os.O_RDWR | os.O_CREAT | os.O_NOATIME) as fd:
        os.write(fd, b"x")


@check
def flags_that_mean_nothing_for_files_do_no_harm(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"content")
    for flags in (os.O_NONBLOCK, os.O_NOCTTY, os.O_ASYNC, os.O_SYNC, os.O_DSYNC, os.O_LARGEFILE):
        with opened(path, os.O_RDWR | flags) as fd:
            assert os.pread(fd, 10, 0) == b"content"
            os.pwrite(fd, b"content", 0)
    with opened(path, os.O_ACCMODE) as fd:  # neither read nor write (open(2), notes)
        with fails_with(errno.EBADF):
            os.read(fd, 1)
        with fails_with(errno.EBADF):
            os.write(fd, b"x")


@check
def a_ring_goes_on_where_it_stopped(directory: Path) -> None:
    if not has_io_uring():
        return
    path = directory / "file"
    with Ring() as ring:
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
            fd = ring.open(path, flags | os.O_CREAT | os.O_TRUNC)
            assert [ring.write(fd, b"line %d\n" % number) for number in range(3)] == [7, 7, 7]
            assert os.lseek(fd, 0, os.SEEK_CUR) == 21
            os.close(fd)
            assert path.read_bytes() == b"line 0\nline 1\nline 2\n"
        fd = ring.open(path, os.O_RDONLY)
        assert [ring.read(fd, 8) for _ in range(4)] == [b"line 0\nl", b"ine 1\nli", b"ne 2\n", b""]
        os.close(fd)


@check
def a_ring_reads_and_writes_at_given_places(directory: Path) -> None:
    if not has_io_uring():
        return
    path = directory / "file"
    with Ring() as ring, opened(path, os.O_RDWR | os.O_CREAT) as fd:
        assert ring.write(fd, b"a" * 5000, 0) == 5000
        assert ring.write(fd, b"b" * 5000, 5000) == 5000
        assert ring.read(fd, 8000, 4000) == b"a" * 1000 + b"b" * 5000
        assert ring.read(fd, 10, 10_000) == b""
    assert path.read_bytes() == b"a" * 5000 + b"b" * 5000


@check
def truncation_at_open(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"content")
    with opened(path, os.O_RDONLY) as reading:
        with opened(path, os.O_WRONLY | os.O_TRUNC) as fd:
            assert os.fstat(fd).st_size == 0
            assert os.read(reading, 10) == b""
            os.write(fd, b"new")
        assert os.pread(reading, 10, 0) == b"new"
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
        assert path.stat().st_size == 0


@check
def exclusive_creation(directory: Path) -> None:
    path = directory / "file"
    with opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o400) as fd:
        os.write(fd, b"writable although the mode forbids it")
        assert os.pread(fd, 8, 0) == b"writable"
    with fails_with(errno.EEXIST):
        os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    (directory / "sub").mkdir()
    with fails_with(errno.EEXIST):
        os.open(directory / "sub", os.O_RDWR | os.O_CREAT | os.O_EXCL)


@check
def exclusive_creation_has_one_winner(directory: Path) -> None:
    code = """
import os, sys
won = 0
sys.stdin.readline()
for number in range(100):
    try:
        os.close(os.open(f"{sys.argv[1]}/{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        won += 1
    except FileExistsError:
        pass
print(won)
"""
    with other_process(code, directory) as first, other_process(code, directory) as second:
        won = 0
        for process in first, second:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in first, second:
            assert process.stdout
            won += int(process.stdout.read())
    assert won == 100


@check
def access_modes_hold(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"content")
    with opened(path, os.O_RDONLY) as fd:
        with fails_with(errno.EBADF):
            os.write(fd, b"x")
        with fails_with(errno.EINVAL):
            os.ftruncate(fd, 0)
    with opened(path, os.O_WRONLY) as fd, fails_with(errno.EBADF):
        os.read(fd, 1)
    with opened(path, os.O_PATH) as fd, fails_with(errno.EBADF):
        os.read(fd, 1)


@check
def synchronous_writes(directory: Path) -> None:
    for flags in (os.O_DSYNC, os.O_SYNC):
        path = directory / f"file{flags}"
        with opened(path, os.O_RDWR | os.O_CREAT | flags) as fd:
            os.write(fd, b"a" * 10000)
            os.pwrite(fd, b"b", 5000)
            os.fsync(fd)
            os.fdatasync(fd)
        assert path.read_bytes() == b"a" * 5000 + b"b" + b"a" * 4999
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)
        os.fdatasync(fd)


@check
def direct_io(directory: Path) -> None:
    path = directory / "file"
    with (
        opened(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT) as fd,
        mmap.mmap(-1, 4 * 4096) as buffer,
    ):
        buffer[:] = b"d" * len(buffer)
        assert os.pwritev(fd, [buffer], 0) == len(buffer)
        buffer[:] = bytes(len(buffer))
        assert os.preadv(fd, [buffer], 4096) == 3 * 4096
        assert buffer[: 3 * 4096] == b"d" * (3 * 4096)
    assert path.read_bytes() == b"d" * (4 * 4096)


_STORE = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(fd, 0)
for line in sys.stdin:
    offset, text = line.split()
    memory[int(offset):int(offset) + len(text)] = text.encode()
    print("stored", flush=True)
"""


@check
def shared_memory_and_calls_agree(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(bytes(2 * _PAGE))
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 0) as memory:
        os.pwrite(fd, b"written", 10)
        assert memory[10:17] == b"written"
        memory[_PAGE : _PAGE + 6] = b"stored"
        assert os.pread(fd, 6, _PAGE) == b"stored"
        with other_process(_STORE, path) as process:
            assert process.stdin
            assert process.stdout
            process.stdin.write("100 neighbour\n")
            process.stdin.flush()
            assert process.stdout.readline() == "stored\n"
            assert memory[100:109] == b"neighbour"
            assert os.pread(fd, 9, 100) == b"neighbour"
            os.pwrite(fd, b"N", 100)
            assert memory[100:109] == b"Neighbour"
        memory.flush()
    content = path.read_bytes()
    assert len(content) == 2 * _PAGE
    assert content[10:17] == b"written"
    assert content[100:109] == b"Neighbour"
    assert content[_PAGE : _PAGE + 6] == b"stored"


@check
def memory_mapped_from_an_append_only_descriptor(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"0" * 100)
    with opened(path, os.O_RDWR | os.O_APPEND) as fd, mmap.mmap(fd, 0) as memory:
        memory[:3] = b"abc"
        memory.flush()
        os.write(fd, b"end")
    assert path.read_bytes() == b"abc" + b"0" * 97 + b"end"


@check
def memory_mapped_beside_an_append_only_descriptor(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"0" * 100)
    with (
        opened(path, os.O_RDWR) as fd,
        mmap.mmap(fd, 0) as memory,
        opened(path, os.O_WRONLY | os.O_APPEND) as appending,
    ):
        memory[:3] = b"abc"
        memory.flush()
        os.write(appending, b"end")
    assert path.read_bytes() == b"abc" + b"0" * 97 + b"end"


@check
def private_mappings_leave_the_file_alone(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"original")
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE) as memory:
        memory[:8] = b"changed!"
        assert os.pread(fd, 8, 0) == b"original"
    assert path.read_bytes() == b"original"


@check
def mapped_memory_outlives_descriptor_and_name(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"x" * _PAGE)
    other = directory / "other"
    other.hardlink_to(path)
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 0) as memory:
        os.close(fd)
        path.unlink()
        memory[:5] = b"later"
        memory.flush()
    assert other.read_bytes()[:6] == b"laterx"


@check
def programs_run(directory: Path) -> None:
    program = directory / "program"
    program.write_bytes(Path("/bin/cat").read_bytes())
    program.chmod(0o755)
    done = subprocess.run([program], input=b"through", capture_output=True, check=True)
    assert done.stdout == b"through"
    with subprocess.Popen([program], stdin=subprocess.PIPE) as running:
        with fails_with(errno.ETXTBSY):
            os.open(program, os.O_WRONLY)
        program.unlink()
    script = directory / "script"
    script.write_text("#!/bin/sh\necho $((6 * 7))\n")
    with fails_with(errno.EACCES):
        subprocess.run([script], check=True)
    script.chmod(0o755)
    assert subprocess.run([script], capture_output=True, check=True).stdout == b"42\n"
    assert running.returncode == 0


_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "r+")
lock = fcntl.flock if sys.argv[2] == "flock" else fcntl.lockf
try:
    lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("got it")
except BlockingIOError:
    print("held")
"""


@check
def locks_between_processes(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"12345")
    for kind, lock in (("flock", fcntl.flock), ("lockf", fcntl.lockf)):
        with path.open("r+") as file:
            lock(file, fcntl.LOCK_EX)
            assert said_by_other_process(_LOCK, path, kind) == "held"
            lock(file, fcntl.LOCK_UN)
            assert said_by_other_process(_LOCK, path, kind) == "got it"


@lacking("pyfuse3 has no handler for O_TMPFILE")
def unnamed_files(directory: Path) -> None:
    with opened(directory, os.O_TMPFILE | os.O_RDWR) as fd:
        os.write(fd, b"named later")
        assert os.fstat(fd).st_nlink == 0
        link_descriptor(fd, directory / "name")
    assert (directory / "name").read_bytes() == b"named later"
