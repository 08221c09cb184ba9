"""What clients keep over a crash: open files without a name, maps, locks, FIFOs, directories."""

import errno
import fcntl
import mmap
import os
import signal
import struct
from typing import Final

from fusevol.linux.process import die_with_parent
from tests.crash.client import Client

_PAGE: Final = 4096
_PAGES: Final = 16
_KEPT: Final = 4
_LONGEST: Final = 50_000
_NEXT: Final = 0.2


class Unlinked:
    """Files that were removed while open: only their descriptors lead to them."""

    def __init__(self, client: Client, directory: str) -> None:
        self._client = client
        self._directory = directory
        self._files: list[tuple[int, str, bytearray]] = []
        self._count = 0
        client.mkdir(directory)

    def step(self) -> None:
        if len(self._files) < _KEPT:
            self._files.append(self._new())
        fd, path, content = self._client.rng.choice(self._files)
        offset = self._client.rng.randrange(len(content) + 1)
        more = self._client.rng.randbytes(self._client.rng.choice((1, 300, 5000)))
        written = self._client.call("write", path, os.pwrite, fd, more, offset, size=len(more))
        self._client.same("write", path, len(more), written)
        content[offset : offset + len(more)] = more
        self._compare(fd, path, content)
        if len(content) > _LONGEST:
            self._client.call("setattr", path, os.ftruncate, fd, 10)
            del content[10:]
        if self._client.rng.random() < _NEXT / _KEPT:
            self._close(self._files.pop(0))

    def finish(self) -> None:
        while self._files:
            self._close(self._files.pop())
        self._client.same("readdir", self._directory, [], os.listdir(self._directory))

    def _new(self) -> tuple[int, str, bytearray]:
        self._count += 1
        path = f"{self._directory}/{self._count}"
        fd = self._client.create(path)
        self._client.call("unlink", path, os.unlink, path)
        return fd, path, bytearray()

    def _close(self, file: tuple[int, str, bytearray]) -> None:
        self._compare(*file)
        os.close(file[0])

    def _compare(self, fd: int, path: str, content: bytearray) -> None:
        status = self._client.call("fstat", path, os.fstat, fd)
        self._client.same("fstat", path, (0, len(content)), (status.st_nlink, status.st_size))
        got = self._client.call("read", path, os.pread, fd, len(content) + 1, 0, size=len(content))
        self._client.same("read", path, bytes(content), got)


class Mapped:
    """A shared memory map that is used together with read(2) and write(2) of the same file."""

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self._path = path
        self._content = bytearray(_PAGE * _PAGES)
        self._fd = client.create(path)
        os.pwrite(self._fd, self._content, 0)
        self._map = mmap.mmap(self._fd, len(self._content))

    def step(self) -> None:
        page = self._client.rng.randrange(_PAGES) * _PAGE
        span = slice(page, page + self._client.rng.choice((1, 100, _PAGE)))
        new = self._client.rng.randbytes(span.stop - span.start)
        if self._client.rng.random() < 0.5:
            self._map[span] = new
            self._client.call("msync", self._path, self._map.flush, page, _PAGE)
        else:
            self._client.call("pwrite", self._path, os.pwrite, self._fd, new, page)
        self._content[span] = new
        self._client.same("mmap", self._path, bytes(self._content[span]), self._map[span])
        got = self._client.call("pread", self._path, os.pread, self._fd, _PAGE, page)
        self._client.same("pread", self._path, bytes(self._content[page : page + _PAGE]), got)

    def finish(self) -> None:
        self._client.same("mmap", self._path, bytes(self._content), self._map[:])
        self._map.close()
        os.close(self._fd)
        got = self._client.content_of(self._path)
        self._client.same("read", self._path, bytes(self._content), got)


class Locked:
    """A lock that is held all the time and keeps others away, of flock(2) and of fcntl(2)."""

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self._path = path
        self._holder = client.create(path)
        self._other = client.call("open", path, os.open, path, os.O_RDWR)
        fcntl.flock(self._holder, fcntl.LOCK_EX)
        fcntl.fcntl(self._holder, fcntl.F_OFD_SETLK, _range(fcntl.F_WRLCK, 0))

    def step(self) -> None:
        call, path, other = self._client.call, self._path, self._other
        refused = errno.errorcode[errno.EWOULDBLOCK]
        call("flock", path, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB, expected=refused)
        call("fcntl", path, fcntl.fcntl, other, fcntl.F_OFD_SETLK, _range(fcntl.F_RDLCK, 0),
             expected=refused)  # fmt: skip
        call("fcntl", path, fcntl.fcntl, other, fcntl.F_OFD_SETLK, _range(fcntl.F_WRLCK, 1))

    def finish(self) -> None:
        os.close(self._holder)
        fcntl.flock(self._other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(self._other)


class Fifo:
    """A FIFO between two processes: lines go in on this side and come back from the other."""

    def __init__(self, client: Client, directory: str) -> None:
        self._client = client
        self._directory = directory
        self._there, self._back = f"{directory}/there", f"{directory}/back"
        self._sent = 0
        client.mkdir(directory)
        for path in (self._there, self._back):
            client.call("mknod", path, os.mkfifo, path)
        self._child = os.fork()
        if self._child == 0:
            os._exit(_echo(self._there, self._back))
        self._out = client.call("open of a FIFO", self._there, os.open, self._there, os.O_WRONLY)
        self._in = client.call("open of a FIFO", self._back, os.open, self._back, os.O_RDONLY)

    def step(self) -> None:
        self._sent += 1
        line = b"%d\n" % self._sent
        os.write(self._out, line)
        self._client.same("read of a FIFO", self._back, line, os.read(self._in, 100))

    def finish(self) -> None:
        os.close(self._out)
        self._client.same("end of a FIFO", self._back, b"", os.read(self._in, 1))
        os.close(self._in)
        status = os.waitpid(self._child, 0)[1]
        self._client.same("end of the process behind a FIFO", self._there, 0, status)


class Removed:
    """A working directory that has been removed."""

    def __init__(self, client: Client, directory: str) -> None:
        self._client = client
        self._directory = directory
        self._count = 0
        client.mkdir(directory)
        self._enter()

    def step(self) -> None:
        call, path = self._client.call, self._path
        gone = errno.errorcode[errno.ENOENT]
        status = call("stat", path, os.stat, ".")
        self._client.same("stat", path, self._ino, status.st_ino)
        self._client.same("readdir", path, [], call("readdir", path, os.listdir, "."))
        call("getcwd", path, os.getcwd, expected=gone)
        call("open", path, os.open, "new", os.O_WRONLY | os.O_CREAT, 0o600, expected=gone)
        call("mkdir in a removed directory", path, os.mkdir, "new", expected=gone)
        if self._client.rng.random() < _NEXT:
            os.chdir("/")
            self._enter()

    def finish(self) -> None:
        os.chdir("/")

    def _enter(self) -> None:
        self._count += 1
        self._path = f"{self._directory}/{self._count}"
        self._client.mkdir(self._path)
        os.chdir(self._path)
        self._ino = os.stat(".").st_ino
        self._client.call("rmdir", self._path, os.rmdir, self._path)


def _range(kind: int, start: int) -> bytes:
    """A lock on the byte at `start` (struct flock of 64-bit Linux)."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, 1, 0)


def _echo(there: str, back: str) -> int:
    """Send back what comes; return the exit status."""
    die_with_parent(signal.SIGKILL)
    # What this client has open and locked is not for the other side to keep.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    source = os.open(there, os.O_RDONLY)
    sink = os.open(back, os.O_WRONLY)
    while line := os.read(source, 100):
        os.write(sink, line)
    return 0
