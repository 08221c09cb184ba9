"""What the processes of one mount say to each other, over SEQPACKET socket pairs.

    starter -> keeper   Start                       what is to be mounted
    keeper  -> starter  Mounted | Failed            it answers, or why not

    worker  -> keeper   Prepared | Failed           source and log are open, or why not
    keeper  -> worker   one byte                    it is mounted, /dev/fuse is open
    worker  -> keeper   Ready                       requests are served

Afterwards the channels are closed. A peer that ends before that is noticed by the closed channel.
"""

from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from fusevol import errors
from fusevol.errors import FusevolError
from fusevol.mounts.encoding import decode, encode
from fusevol.options.config import MountConfig

if TYPE_CHECKING:
    # The keeper's ends are ordinary sockets.
    from trio.socket import SocketType

BYTES: Final = 1 << 16
"""Longest message."""

M = TypeVar("M", bound=msgspec.Struct)


class Start(msgspec.Struct, tag=True):
    """What is to be mounted.

    Attributes:
        owner: process with which the mount ends, 0 for none; owner_ticks: when that started.
    """

    config: MountConfig
    owner: int = 0
    owner_ticks: int = 0


class Mounted(msgspec.Struct, tag=True):
    """The mount answers; `device` is the st_dev of its files."""

    device: int


class Prepared(msgspec.Struct, tag=True):
    """The worker can serve.

    Attributes:
        single_file: the source is not a directory.
        flags: what the mount gets besides its own flags of mount(2).
    """

    single_file: bool
    flags: int = 0


class Ready(msgspec.Struct, tag=True):
    """Requests are being served."""


class Failed(msgspec.Struct, tag=True):
    """It cannot be done; `kind` is the name of a class in fusevol.errors."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: FusevolError) -> "Failed":
        """Return the message that reports `error`."""
        return cls(type(error).__name__, str(error))

    def error(self) -> FusevolError:
        """Return the error as it was raised."""
        kind = getattr(errors, self.kind, FusevolError)
        error: FusevolError = kind(self.message)
        return error


def pack(message: msgspec.Struct) -> bytes:
    """Return a message as one packet."""
    return encode(message)


def unpack(packet: bytes, kind: type[M]) -> M:
    """Return the message in a packet.

    Raises:
        FusevolError: the other side has failed, as it says, or is gone (an empty packet).
    """
    if not packet:
        raise FusevolError("the server of the mount exited before it could serve; see its messages")
    message: M | Failed = decode(packet, kind | Failed)
    if isinstance(message, Failed):
        raise message.error()
    return message


async def receive(channel: "SocketType", kind: type[M]) -> M:
    """Return the next message; FusevolError if the other side failed or is gone."""
    try:
        packet = await channel.recv(BYTES)
    except ConnectionError:
        packet = b""
    return unpack(packet, kind)
