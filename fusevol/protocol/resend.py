"""What the kernel sends again after a worker died, and requests that no worker shall get.

The keeper has the kernel send the unanswered requests again (FUSE_NOTIFY_RESEND, Linux 6.9), looks
at them, and has them sent once more, for the successor: reading takes nothing from the kernel but
what needs no answer. See fs/fuse/dev.c, fuse_resend and fuse_dev_do_read, and linux/fuse.h.

Resent requests come before those that no worker has seen, so looking stops at the first of these.
"""

import errno
import os
import select
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from fusevol.recovery.journal import CODES, POSITIONED, Key

_NOTIFY_RESEND: Final = 7
_UNIQUE_RESEND: Final = 1 << 63
_HEADER: Final = struct.Struct("<IIQQIIIHH")  # len opcode unique nodeid uid gid pid extlen padding
_OUT: Final = struct.Struct("<IiQ")  # len error unique
_TWO_WORDS: Final = struct.Struct("<QQ")
_FORGET: Final = 2
_BATCH_FORGET: Final = 42
_INTERRUPT: Final = 36
_SETXATTR: Final = 21
_MESSAGE_BYTES: Final = (1 << 20) + (1 << 16)
_UNIQUE_STEP: Final = 2
"""FUSE_REQ_ID_STEP, fuse_i.h: ids grow by this."""
_LOOK_BACK: Final = 200_000
"""How many requests back an unanswered one may be on kernels that do not report it."""

_OPERATIONS: Final = {
    1: "lookup", 3: "getattr", 4: "setattr", 5: "readlink", 6: "symlink", 8: "mknod", 9: "mkdir",
    10: "unlink", 11: "rmdir", 12: "rename", 13: "link", 14: "open", 15: "read", 16: "write",
    17: "statfs", 18: "release", 20: "fsync", 21: "setxattr", 22: "getxattr", 23: "listxattr",
    24: "removexattr", 25: "flush", 27: "opendir", 28: "readdir", 29: "releasedir",
    30: "fsyncdir", 35: "create", 44: "readdir", 45: "rename",
}  # fmt: skip
_BY_HANDLE: Final = frozenset(
    ("read", "write", "release", "fsync", "flush", "readdir", "releasedir", "fsyncdir")
)
_NAME_AT: Final = {1: 0, 10: 0, 11: 0, 6: 0, 8: 16, 9: 8, 12: 8, 13: 8, 35: 16, 45: 16}
"""Opcode -> where in the message, after the header, the first name is."""


@dataclass(slots=True)
class UnansweredRequest:
    """An unanswered request.

    Attributes:
        unique: its id, as an answer has to give it.
        op: operation; "" for one that fusevol does not serve.
        key: what its journal entry has.
        ino: node id; name: the name in that directory, if it has one.
        xattr_flags: flags of setxattr(2).
    """

    unique: int
    op: str
    key: Key
    ino: int
    name: bytes
    uid: int
    gid: int
    pid: int
    xattr_flags: int

    @property
    def number(self) -> int:
        """What stays the same however often the request is sent."""
        return self.unique & ~_UNIQUE_RESEND


@dataclass(slots=True)
class Leftovers:
    """What the keeper leaves for a successor.

    Attributes:
        forgotten: (node id, references) that the kernel has given back meanwhile.
        refused: requests that were answered with EIO for good.
    """

    forgotten: list[tuple[int, int]] = field(default_factory=list)
    refused: list[UnansweredRequest] = field(default_factory=list)


def resend(fuse_fd: int) -> None:
    """Have the kernel send all requests again that were read and not answered.

    Raises:
        OSError: ENODEV if the file system is unmounted; EINVAL before Linux 6.9.
    """
    os.write(fuse_fd, _OUT.pack(_OUT.size, _NOTIFY_RESEND, 0))


def look(fuse_fd: int, leftovers: Leftovers) -> list[UnansweredRequest]:
    """Return the requests that are sent again; `resend` has to follow.

    Args:
        leftovers: gets the references that are given back on the way.

    Raises:
        OSError: ENODEV if the file system is unmounted.
    """
    found = []
    for message in _waiting(fuse_fd):
        _, opcode, unique, _, _, _, _, _, _ = _HEADER.unpack_from(message)
        if opcode in (_FORGET, _BATCH_FORGET):
            leftovers.forgotten += _forgotten(message)
        elif opcode != _INTERRUPT:
            if not unique & _UNIQUE_RESEND:
                break
            found.append(_request(message))
    return found


def _waiting(fuse_fd: int) -> Iterator[memoryview]:
    """Yield the messages that wait to be read; each is valid until the next."""
    buffer = bytearray(_MESSAGE_BYTES)
    # The flag is that of the open file, which workers read with; there is none now.
    os.set_blocking(fuse_fd, False)
    try:
        while True:
            try:
                size = os.readv(fuse_fd, [buffer])
            except BlockingIOError:
                return
            yield memoryview(buffer)[:size]
    finally:
        os.set_blocking(fuse_fd, True)


def refuse(fuse_fd: int, request: UnansweredRequest) -> None:
    """Answer a request with EIO; it is nothing if nobody waits for it any more."""
    try:
        os.write(fuse_fd, _OUT.pack(_OUT.size, -errno.EIO, request.unique))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def refuse_unanswered(fuse_fd: int) -> None:
    """Answer all that was read with EIO, on a kernel that cannot send it again.

    The kernel does not report their ids, but ids are given in turn, and an answer to one that is
    not waited for does nothing. The next request shows how far they are, and is refused with them.
    """
    poll = select.poll()
    poll.register(fuse_fd, select.POLLIN)
    poll.poll(_NEXT_REQUEST_MS)
    for message in _waiting(fuse_fd):
        _, opcode, unique, _, _, _, _, _, _ = _HEADER.unpack_from(message)
        if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            continue
        oldest = max(0, unique - _LOOK_BACK * _UNIQUE_STEP)
        for number in range(unique, oldest, -_UNIQUE_STEP):
            try:
                os.write(fuse_fd, _OUT.pack(_OUT.size, -errno.EIO, number))
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
        return


_NEXT_REQUEST_MS: Final = 1000


def _request(message: memoryview) -> UnansweredRequest:
    _, opcode, unique, ino, uid, gid, pid, _, _ = _HEADER.unpack_from(message)
    op = _OPERATIONS.get(opcode, "")
    body = message[_HEADER.size :]
    who, where, flags, name = pid, 0, 0, b""
    if op in _BY_HANDLE:
        who, second = _TWO_WORDS.unpack_from(body)
        where = second if op in POSITIONED else 0
    if opcode == _SETXATTR:
        _, flags = struct.unpack_from("<II", body)
    if opcode in _NAME_AT:
        name = bytes(body[_NAME_AT[opcode] :]).split(b"\0", 1)[0]
    return UnansweredRequest(
        unique, op, Key(CODES.get(op, 0), who, where), ino, name, uid, gid, pid, flags
    )


def _forgotten(message: memoryview) -> list[tuple[int, int]]:
    _, opcode, _, ino, _, _, _, _, _ = _HEADER.unpack_from(message)
    body = message[_HEADER.size :]
    if opcode == _FORGET:
        return [(ino, struct.unpack_from("<Q", body)[0])]
    count, _ = struct.unpack_from("<II", body)
    pairs: list[tuple[int, int]] = list(_TWO_WORDS.iter_unpack(body[8 : 8 + 16 * count]))
    return pairs
