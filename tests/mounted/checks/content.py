"""Content: sizes, holes, offsets, vectors, copies, times that go with them."""

import errno
import fcntl
import os
from pathlib import Path

from fusevol.linux.files import reserve
from tests.mounted.checks.table import check, fails_with, lacking, opened

_MIB = 1 << 20


@check
def reads_and_writes_anywhere(directory: Path) -> None:
    pattern = bytes(range(251)) * 20000
    path = directory / "file"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        assert os.write(fd, pattern) == len(pattern)
        for offset, size in ((0, 1), (4095, 2), (1_000_003, 300_000), (len(pattern) - 5, 100)):
            assert os.pread(fd, size, offset) == pattern[offset : offset + size]
        assert os.pread(fd, 10, len(pattern)) == b""
        assert os.pread(fd, 10, len(pattern) + 12345) == b""
        os.pwrite(fd, b"xyz", 4094)
        assert os.pread(fd, 5, 4093) == pattern[4093:4094] + b"xyz" + pattern[4097:4098]
        assert os.fstat(fd).st_size == len(pattern)
        assert os.write(fd, b"") == 0
    assert path.read_bytes() == pattern[:4094] + b"xyz" + pattern[4097:]


@check
def vectors(directory: Path) -> None:
    with opened(directory / "file", os.O_RDWR | os.O_CREAT) as fd:
        assert os.pwritev(fd, [b"one", b"", b"two", b"x" * 5000], 3) == 5006
        parts = [bytearray(4), bytearray(4), bytearray(9000)]
        assert os.preadv(fd, parts, 0) == 5009
        assert bytes(parts[0]) == b"\0\0\0o"
        assert bytes(parts[1]) == b"netw"
        assert parts[2][:3] == b"oxx"


@check
def sparse_files(directory: Path) -> None:
    path = directory / "file"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"end", 100 * _MIB)
        os.fsync(fd)
        status = os.fstat(fd)
        assert status.st_size == 100 * _MIB + 3
        assert status.st_blocks * 512 < _MIB
        assert os.pread(fd, 4096, 50 * _MIB) == bytes(4096)
        assert os.pread(fd, 8, 100 * _MIB - 5) == b"\0\0\0\0\0end"


@lacking("pyfuse3 has no handler for SEEK_HOLE and SEEK_DATA: all is data")
def holes_are_found(directory: Path) -> None:
    with opened(directory / "file", os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"end", 8 * _MIB)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 8 * _MIB
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 0


@lacking("pyfuse3 has no handler for fallocate")
def room_is_reserved(directory: Path) -> None:
    with opened(directory / "file", os.O_RDWR | os.O_CREAT) as fd:
        reserve(fd, 0, _MIB)
        assert os.fstat(fd).st_size == 0
        assert os.fstat(fd).st_blocks * 512 >= _MIB


@check
def room_is_made_by_writing(directory: Path) -> None:
    """As the C library does where fallocate(2) is missing."""
    with opened(directory / "file", os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"kept", 100_000)
        os.posix_fallocate(fd, 0, _MIB)
        assert os.fstat(fd).st_size == _MIB
        assert os.pread(fd, 4, 100_000) == b"kept"


@check
def big_offsets(directory: Path) -> None:
    path = directory / "file"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        far = (1 << 33) + 7
        os.pwrite(fd, b"far away", far)
        assert os.pread(fd, 100, far) == b"far away"
        assert os.lseek(fd, 0, os.SEEK_END) == far + 8
        with fails_with(errno.EINVAL):
            os.lseek(fd, -1, os.SEEK_SET)
        with fails_with(errno.EINVAL):
            os.pread(fd, 1, -1)
        with fails_with(errno.EFBIG, errno.EINVAL):
            os.pwrite(fd, b"x", (1 << 63) - 1)


@check
def truncation(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"x" * 10000)
    os.truncate(path, 4999)
    assert path.read_bytes() == b"x" * 4999
    os.truncate(path, 9000)
    assert path.read_bytes() == b"x" * 4999 + bytes(4001)
    with opened(path, os.O_RDWR) as fd:
        assert os.pread(fd, 9000, 0)[:5] == b"xxxxx"
        os.ftruncate(fd, 2)
        assert os.pread(fd, 100, 0) == b"xx"
        os.ftruncate(fd, 100000)
        assert os.fstat(fd).st_size == 100000
        assert os.pread(fd, 100000, 0) == b"xx" + bytes(99998)
        os.truncate(path, 0)
        assert os.read(fd, 10) == b""
        with fails_with(errno.EINVAL):
            os.ftruncate(fd, -1)


@check
def truncation_moves_the_times(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"x")
    os.utime(path, ns=(1, 1))
    os.truncate(path, 5)
    assert path.stat().st_mtime_ns > 1
    os.utime(path, ns=(1, 1))
    with opened(path, os.O_WRONLY | os.O_TRUNC):
        pass
    assert path.stat().st_mtime_ns > 1


@check
def two_descriptors_see_each_others_writes(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"0" * 100)
    with opened(path, os.O_RDWR) as one, opened(path, os.O_RDWR) as other:
        assert os.pread(other, 100, 0) == b"0" * 100
        os.pwrite(one, b"1" * 50, 0)
        assert os.pread(other, 100, 0) == b"1" * 50 + b"0" * 50
        os.pwrite(other, b"2" * 10, 200)
        assert os.fstat(one).st_size == 210
        assert os.pread(one, 300, 190) == bytes(10) + b"2" * 10


@check
def file_to_file_copies(directory: Path) -> None:
    content = os.urandom(300_000)
    (directory / "from").write_bytes(content)
    with (
        opened(directory / "from", os.O_RDONLY) as source,
        opened(directory / "to", os.O_RDWR | os.O_CREAT) as target,
    ):
        done = 0
        while done < len(content):
            done += os.copy_file_range(source, target, len(content) - done)
        assert os.pread(target, len(content) + 1, 0) == content
        assert os.copy_file_range(source, target, 10, offset_src=5, offset_dst=1) == 10
        assert os.pread(target, 10, 1) == content[5:15]


@check
def files_are_sent_and_received(directory: Path) -> None:
    content = os.urandom(200_000)
    path = directory / "from"
    path.write_bytes(content)
    with (
        opened(path, os.O_RDONLY) as source,
        opened(directory / "to", os.O_WRONLY | os.O_CREAT) as target,
    ):
        done = 0
        while done < len(content):
            done += os.sendfile(target, source, done, len(content) - done)
    assert (directory / "to").read_bytes() == content
    reading, writing = os.pipe()
    with opened(directory / "spliced", os.O_WRONLY | os.O_CREAT) as target:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 65536)
        with opened(path, os.O_RDONLY) as source:
            moved = os.splice(source, writing, 60000)
        assert os.splice(reading, target, moved) == moved
    os.close(reading)
    os.close(writing)
    assert (directory / "spliced").read_bytes() == content[:moved]


@check
def size_and_blocks_follow_writes(directory: Path) -> None:
    path = directory / "file"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        for size in (1, 4096, 4097, 1_000_000):
            os.pwrite(fd, b"x", size - 1)
            assert os.fstat(fd).st_size == path.stat().st_size == size
        os.pwrite(fd, b"y" * 1_000_000, 0)
        os.fsync(fd)
        assert os.fstat(fd).st_blocks * 512 >= 1_000_000
