"""What daemon and worker say to each other, over a SEQPACKET socket pair.

    daemon -> worker   MountConfig
    worker -> daemon   Prepared | Failed          source and log are open, or why not
    daemon -> worker   the kernel's INIT request, with the descriptor of /dev/fuse
    worker -> daemon   Serving                    INIT is answered

Afterwards the channel is silent; its end tells each side that the other is gone.
"""

import socket
import sys
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from fusevol import errors
from fusevol.daemon.encoding import decode, encode
from fusevol.errors import FusevolError

if TYPE_CHECKING:
    # The worker's end of the channel is an ordinary socket.
    from trio.socket import SocketType

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


def pack(message: msgspec.Struct) -> bytes:
    """Return a message as one packet."""
    return encode(message)


def unpack(packet: bytes, kind: type[M]) -> M:
    """Return the message in a packet.

    Raises:
        FusevolError: the other side has failed, as it says, or is gone (an empty packet).
    """
    if not packet:
        raise FusevolError("the worker ended before it could serve; see its messages")
    message: M | Failed = decode(packet, kind | Failed)
    if isinstance(message, Failed):
        raise message.error()
    return message


async def send(channel: "SocketType", message: msgspec.Struct) -> None:
    """Send one message to the worker; FusevolError if it is gone."""
    try:
        await channel.send(pack(message))
    except ConnectionError:
        unpack(b"", type(message))


async def receive(channel: "SocketType", kind: type[M]) -> M:
    """Return the worker's next message; FusevolError if it failed or is gone."""
    try:
        packet = await channel.recv(_BYTES)
    except ConnectionError:
        packet = b""
    return unpack(packet, kind)


async def send_init(channel: "SocketType", init: bytes, fuse_fd: int) -> None:
    """Hand over /dev/fuse and the INIT request that was read from it."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, fuse_fd.to_bytes(4, sys.byteorder))
    await channel.sendmsg([init], [rights])


def receive_init(channel: socket.socket) -> tuple[bytes, int]:
    """Return the INIT request and the descriptor of /dev/fuse; EOFError if there are none."""
    init, fds, _, _ = socket.recv_fds(channel, _BYTES, 1)
    if not fds:
        raise EOFError
    return init, fds[0]
