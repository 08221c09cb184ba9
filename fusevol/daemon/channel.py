"""What daemon and worker say to each other, over a SEQPACKET socket pair.

    daemon -> worker   MountConfig
    worker -> daemon   Prepared | Failed          source and log are open, or why not
    daemon -> worker   the kernel's INIT request, with the descriptor of /dev/fuse
    worker -> daemon   Serving                    INIT is answered

Afterwards the channel is silent; its end tells each side that the other is gone.
"""

import socket
from typing import Final, TypeVar

import msgspec

from fusevol import errors
from fusevol.daemon.encoding import decode, encode
from fusevol.errors import FusevolError

_BYTES: Final = 1 << 16

M = TypeVar("M", bound=msgspec.Struct)


class Prepared(msgspec.Struct, tag=True):
    """The worker can serve. `single_file`: the source is not a directory."""

    single_file: bool


class Failed(msgspec.Struct, tag=True):
    """The worker cannot serve; `kind` is the name of a class in fusevol.errors."""

    kind: str
    message: str

    def error(self) -> FusevolError:
        """Return the error as the worker raised it."""
        kind = getattr(errors, self.kind, FusevolError)
        error: FusevolError = kind(self.message)
        return error


class Serving(msgspec.Struct, tag=True):
    """Requests are being served; `flags` are the INIT flags in force."""

    flags: int


def send(channel: socket.socket, message: msgspec.Struct) -> None:
    """Send one message."""
    channel.send(encode(message))


def receive(channel: socket.socket, kind: type[M]) -> M | Failed:
    """Return the next message; EOFError if the other side is gone."""
    packet = channel.recv(_BYTES)
    if not packet:
        raise EOFError
    message: M | Failed = decode(packet, kind | Failed)
    return message


def send_init(channel: socket.socket, init: bytes, fuse_fd: int) -> None:
    """Hand over /dev/fuse and the INIT request that was read from it."""
    socket.send_fds(channel, [init], [fuse_fd])


def receive_init(channel: socket.socket) -> tuple[bytes, int]:
    """Return the INIT request and the descriptor of /dev/fuse; EOFError if there are none."""
    init, fds, _, _ = socket.recv_fds(channel, _BYTES, 1)
    if not fds:
        raise EOFError
    return init, fds[0]
