"""What the kernel sends again: a FUSE connection held by the test itself, and waiting clients."""

import errno
import os
import select
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from fusevol.linux.mountinfo import mount_at
from fusevol.linux.mounts import MNT_DETACH, mount, umount
from fusevol.mounts.connection import connection_of
from fusevol.mounts.mounting import open_device
from fusevol.protocol.init import Flag, offered
from fusevol.protocol.resend import (
    Leftovers,
    UnansweredRequest,
    look,
    refuse,
    refuse_unanswered,
    resend,
)
from fusevol.recovery.journal import CODES, Key
from tests.mounted.mounting import workspace
from tests.patience import PATIENCE_S

_IN: Final = struct.Struct("<IIQQIIIHH")
_OUT: Final = struct.Struct("<IiQ")
_LOOKUP, _GETATTR, _MKDIR, _UNLINK, _OPEN, _WRITE, _INIT = 1, 3, 9, 10, 14, 16, 26
_SETXATTR, _OPENDIR, _READDIR, _CREATE, _RENAME2 = 21, 27, 28, 35, 45
_STATFS, _RENAME = 17, 12
_QUIET: Final = (2, 36, 42)
"""FORGET, INTERRUPT and BATCH_FORGET have no answer."""
_RESEND_BIT: Final = 1 << 63
_ROOT: Final = 1
_FILE_INO: Final = 20
_FH: Final = 77
_BYTES: Final = (1 << 20) + 8192


def _attributes(ino: int, mode: int) -> bytes:
    """struct fuse_attr."""
    return struct.pack("<6Q10I", ino, 0, 0, 0, 0, 0, 0, 0, 0, mode, 2, 0, 0, 0, 4096, 0)


def _entry(ino: int, mode: int) -> bytes:
    """struct fuse_entry_out, not to be cached."""
    return struct.pack("<4QII", ino, 0, 0, 0, 0, 0) + _attributes(ino, mode)


@dataclass
class Connection:
    """A FUSE file system of two objects: the root and a file."""

    fd: int
    mountpoint: Path
    device: int
    init: bytes = b""
    clients: list["subprocess.Popen[str]"] = field(default_factory=list)

    def client(self, code: str) -> "subprocess.Popen[str]":
        """Start a process that runs Python `code`, which finds the mount point in `path`."""
        program = f"import os, sys\npath = sys.argv[1]\n{code}"
        client = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program, self.mountpoint],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.clients.append(client)
        return client

    def end_clients(self) -> None:
        """Let go who waits, and end all."""
        self.abort()
        for client in self.clients:
            client.kill()
            client.communicate(timeout=PATIENCE_S)

    def abort(self) -> None:
        """End the service of it, if it is there."""
        held = connection_of(self.fd, self.device)
        if held is not None:
            held.abort()
            held.close()

    def answer_init(self) -> None:
        """Agree on what there is to agree on."""
        self.init = os.read(self.fd, _BYTES)
        _, opcode, unique, _, _, _, _, _, _ = _IN.unpack_from(self.init)
        assert opcode == _INIT
        # major, minor, readahead, flags, background, threshold, max_write, time_gran.
        body = struct.pack("<IIIIHHII", 7, 38, 1 << 17, 0, 12, 9, 1 << 17, 1)
        self.answer(unique, body.ljust(64, b"\0"))

    def next(self) -> tuple[int, int, bytes]:
        """Read a request that wants an answer: opcode, unique, all of it."""
        while True:
            assert select.select([self.fd], [], [], PATIENCE_S)[0], "no request comes"
            message = os.read(self.fd, _BYTES)
            _, opcode, unique, _, _, _, _, _, _ = _IN.unpack_from(message)
            if opcode not in _QUIET:
                return opcode, unique, message

    def answer(self, unique: int, body: bytes = b"", error: int = 0) -> None:
        os.write(self.fd, _OUT.pack(_OUT.size + len(body), -error, unique) + body)

    def serve_until(self, wanted: int) -> int:
        """Answer what comes, until a request of this opcode was read; return its unique id."""
        while True:
            opcode, unique, _ = self.next()
            if opcode == wanted:
                return unique
            self.serve(opcode, unique)

    def serve(self, opcode: int, unique: int) -> None:
        if opcode == _LOOKUP:
            self.answer(unique, _entry(_FILE_INO, stat.S_IFREG | 0o666))
        elif opcode == _GETATTR:
            self.answer(unique, struct.pack("<QII", 0, 0, 0) + _attributes(_ROOT, _DIRECTORY))
        elif opcode in (_OPEN, _OPENDIR):
            self.answer(unique, struct.pack("<QII", _FH, 1, 0))  # FOPEN_DIRECT_IO
        else:
            self.answer(unique)


_DIRECTORY: Final = stat.S_IFDIR | 0o777


@pytest.fixture
def connection() -> Iterator[Connection]:
    if os.geteuid() != 0:
        pytest.skip("mounts by itself, which takes root")
    with workspace() as path:
        fd = open_device()
        data = f"fd={fd},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0,allow_other"
        mount("test", str(path), "fuse.test", 0, data)
        mounted = mount_at(str(path))
        assert mounted is not None
        connection = Connection(fd, path, mounted.device)
        try:
            connection.answer_init()
            yield connection
        finally:
            connection.end_clients()
            umount(str(path), MNT_DETACH)
            os.close(fd)


def _said(process: "subprocess.Popen[str]") -> str:
    return process.communicate(timeout=PATIENCE_S)[0].strip()


_SAYING_ERRORS: Final = """
try:
    {}
except OSError as error:
    print(error.errno)
else:
    print(0)
"""


_MOVE_TO_FREE_NAME: Final = """
import ctypes
os.chdir(path)
ctypes.CDLL(None).renameat2(-100, b"old", -100, b"new", 1)
"""


def _takeover(connection: Connection) -> tuple[list[UnansweredRequest], Leftovers]:
    """What the keeper does."""
    leftovers = Leftovers()
    resend(connection.fd)
    requests = look(connection.fd, leftovers)
    resend(connection.fd)
    return requests, leftovers


def test_this_kernel_says_that_it_sends_again(connection: Connection) -> None:
    assert Flag.HAS_RESEND in offered(connection.init)


def test_an_unanswered_request_comes_again_and_is_told(connection: Connection) -> None:
    code = _SAYING_ERRORS.format("os.mkdir(path + '/some name', 0o700)")
    client = connection.client(code)
    opcode, unique, _ = connection.next()
    while opcode == _LOOKUP:
        connection.answer(unique, error=errno.ENOENT)
        opcode, unique, _ = connection.next()
    assert opcode == _MKDIR
    ((request,), leftovers) = _takeover(connection)
    assert request.op == "mkdir"
    assert request.key == Key(CODES["mkdir"], client.pid)
    assert (request.ino, request.name) == (_ROOT, b"some name")
    assert (request.uid, request.gid, request.pid) == (0, 0, client.pid)
    assert request.number == unique
    assert leftovers == Leftovers()
    # It comes once more, for the successor, and its answer reaches the client.
    opcode, again, _ = connection.next()
    assert (opcode, again) == (_MKDIR, unique | _RESEND_BIT)
    connection.answer(again, error=errno.EDQUOT)
    assert _said(client) == str(errno.EDQUOT)


def test_an_answered_request_does_not_come_again(connection: Connection) -> None:
    client = connection.client("print(os.path.isdir(path), flush=True)\nos.statvfs(path)")
    connection.serve_until(_STATFS)
    assert [request.op for request in _takeover(connection)[0]] == ["statfs"]
    assert client.stdout is not None
    assert client.stdout.readline().strip() == "True"


@pytest.mark.parametrize(
    ("code", "opcode", "op", "name", "flags"),
    [
        ("os.unlink(path + '/gone')", _UNLINK, "unlink", b"gone", 0),
        ("os.rename(path + '/old', path + '/new')", _RENAME, "rename", b"old", 0),
        (_MOVE_TO_FREE_NAME, _RENAME2, "rename", b"old", 0),
        ("os.open(path + '/new', os.O_CREAT | os.O_EXCL)", _CREATE, "create", b"new", 0),
        ("os.setxattr(path, 'user.one', b'1', 1)", _SETXATTR, "setxattr", b"", os.XATTR_CREATE),
    ],
)
def test_names_and_flags_are_told(
    connection: Connection, code: str, opcode: int, op: str, name: bytes, flags: int
) -> None:
    client = connection.client(code)
    while True:
        found, unique, message = connection.next()
        if found == opcode:
            break
        if found == _LOOKUP and b"new" in message:
            connection.answer(unique, error=errno.ENOENT)
        else:
            connection.serve(found, unique)
    ((request,), _) = _takeover(connection)
    assert (request.op, request.name, request.xattr_flags) == (op, name, flags)
    assert request.key == Key(CODES[op], client.pid)


def test_requests_on_a_handle_are_told_by_handle_and_position(connection: Connection) -> None:
    code = "fd = os.open(path + '/file', os.O_WRONLY)\nos.pwrite(fd, b'x' * 5000, 12345)"
    connection.client(code)
    connection.serve_until(_WRITE)
    ((request,), _) = _takeover(connection)
    assert request.op == "write"
    assert request.key == Key(CODES["write"], _FH, 12345)


def test_a_listing_is_told_by_its_position(connection: Connection) -> None:
    connection.client("os.listdir(path)")
    unique = connection.serve_until(_READDIR)
    entry = struct.pack("<QQII", 5, 99, 1, stat.S_IFREG >> 12) + b"a".ljust(8, b"\0")
    connection.answer(unique, entry)
    connection.serve_until(_READDIR)
    ((request,), _) = _takeover(connection)
    assert request.key == Key(CODES["readdir"], _FH, 99)


def test_all_who_wait_are_found_and_those_whom_nobody_has_read_wait_on(
    connection: Connection,
) -> None:
    code = _SAYING_ERRORS.format("os.statvfs(path)")
    clients = {client.pid: client for client in (connection.client(code) for _ in range(3))}
    read = {_IN.unpack_from(connection.next()[2])[6] for _ in range(2)}
    # The third is not read, if it has come by now: nothing is known of it.
    assert select.select([connection.fd], [], [], PATIENCE_S)[0]
    requests, _ = _takeover(connection)
    assert {request.pid for request in requests} == read
    answered: set[int] = set()
    while answered != set(clients):
        _, unique, message = connection.next()
        answered.add(_IN.unpack_from(message)[6])
        connection.answer(unique, error=errno.ENOTRECOVERABLE)
    assert {_said(client) for client in clients.values()} == {str(errno.ENOTRECOVERABLE)}


def test_references_given_back_are_collected(connection: Connection) -> None:
    client = connection.client("os.open(path + '/file', os.O_PATH)")
    connection.serve_until(_LOOKUP)
    # As if a worker had told of the file, and died.
    ((request,), _) = _takeover(connection)
    assert request.op == "lookup"
    assert request.name == b"file"
    _, unique, _ = connection.next()
    connection.answer(unique, _entry(_FILE_INO, stat.S_IFREG | 0o666))
    assert client.wait(PATIENCE_S) == 0
    # A remount has the kernel forget what nobody uses.
    flags = 32
    mount("test", str(connection.mountpoint), "fuse.test", flags, "")
    requests, leftovers = _takeover(connection)
    assert requests == []
    assert leftovers.forgotten == [(_FILE_INO, 1)]


def test_a_refused_request_fails_and_the_others_wait_on(connection: Connection) -> None:
    code = _SAYING_ERRORS.format("os.statvfs(path)")
    one = connection.client(code)
    two = connection.client(code)
    for _ in range(2):
        connection.next()
    resend(connection.fd)
    requests = look(connection.fd, Leftovers())
    (poison,) = (request for request in requests if request.pid == one.pid)
    refuse(connection.fd, poison)
    refuse(connection.fd, poison)
    resend(connection.fd)
    assert _said(one) == str(errno.EIO)
    _, unique, message = connection.next()
    assert _IN.unpack_from(message)[6] == two.pid
    assert two.poll() is None
    connection.answer(unique, error=errno.EBADE)
    assert _said(two) == str(errno.EBADE)


def test_a_client_that_is_killed_while_nobody_reads_takes_its_request_back(
    connection: Connection,
) -> None:
    """So a successor waits in vain for some of what the keeper has seen."""
    client = connection.client("os.statvfs(path)")
    connection.next()
    ((request,), _) = _takeover(connection)
    assert request.pid == client.pid
    client.kill()
    assert client.wait(PATIENCE_S) == -signal.SIGKILL
    assert not select.select([connection.fd], [], [], 0.1)[0]


def _refuses(connection: Connection, code: str) -> str:
    """What a client gets whose request was read before, from a kernel that cannot send again."""
    client = connection.client(code)
    connection.next()
    connection.client("os.statvfs(path)")
    refuse_unanswered(connection.fd)
    return _said(client)


def test_who_waits_gets_eio_where_nothing_can_be_sent_again(connection: Connection) -> None:
    assert _refuses(connection, _SAYING_ERRORS.format("os.statvfs(path)")) == str(errno.EIO)


def test_the_next_request_is_served_after_that(connection: Connection) -> None:
    code = _SAYING_ERRORS.format("os.statvfs(path)")
    _refuses(connection, code)
    client = connection.client(code)
    _, unique, _ = connection.next()
    connection.answer(unique, error=errno.EBADE)
    assert _said(client) == str(errno.EBADE)


def test_refusing_ends_when_no_request_comes(connection: Connection) -> None:
    started = time.monotonic()
    refuse_unanswered(connection.fd)
    assert time.monotonic() - started < PATIENCE_S


def test_the_end_of_the_file_system_is_noticed(connection: Connection) -> None:
    connection.abort()
    with pytest.raises(OSError, match="No such device"):
        _takeover(connection)
