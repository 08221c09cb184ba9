"""Talking to `fusevol serve`: the messages on its control socket, and the client.

The socket is RUNTIME/control.sock, mode 0600. Each message is one line of JSON; the daemon answers
each request with one line. What travels is text of the operating system (`mounts.encoding`), so
that paths may hold any byte.
"""

import os
import socket
import time
from types import TracebackType
from typing import Final, Self

import msgspec

from fusevol.errors import FusevolError, NotFoundError, NotPermittedError
from fusevol.mounts.encoding import decode, encode
from fusevol.options import config
from fusevol.processes.channel import Failed

REQUEST_MAX_BYTES: Final = 1 << 20
_TIMEOUT_S: Final = 150.0
"""Longer than the daemon itself waits for a mount."""


class VolumeState(msgspec.Struct):
    """What the daemon reports about a volume.

    Attributes:
        source: directory or file on the host, absolute.
        subpath: what of the source is the volume, relative; empty for all of it.
        deadline: seconds after which an operation fails; 0 for never.
        strict: at level `all` attributes of directories are asked for each time.
        created: RFC 3339, UTC.
        anonymous: it goes with its last reference.
        references: how often each caller has it mounted.
        state: "idle", "serving", or "failed" if it should be served but is not.
        mountpoint: where it appears on the host while it is served.
        keeper: process that keeps it mounted; 0 if it is not served.
        worker: process that serves it; 0 if it is not served, or while another one starts.
        restarts: how often a worker was succeeded since it was mounted.
        message: why it failed, or what is amiss.
        logging: options of its log that are not the defaults, as words of `fusevol.options.log`.
    """

    name: str
    source: str
    subpath: str
    record: str
    read_only: bool
    log: str
    on_log_failure: str
    created: str
    anonymous: bool
    references: dict[str, int]
    state: str
    mountpoint: str
    keeper: int = 0
    worker: int = 0
    restarts: int = 0
    message: str = ""
    deadline: float = 0.0
    strict: bool = False
    logging: dict[str, str] = {}


class Create(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """Make a volume; with an empty name an anonymous one. Answered by VolumeState."""

    name: str
    options: dict[str, str]


class Update(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """Change options of a volume. Answered by VolumeState."""

    name: str
    options: dict[str, str]


class List(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """List all volumes. Answered by Volumes."""


class Inspect(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """Show one volume. Answered by VolumeState."""

    name: str


class Remove(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """Remove a volume that nobody refers to. Answered by VolumeState, as it was."""

    name: str


class Mount(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """Refer to a volume once more and have it served. Answered by VolumeState.

    Attributes:
        holder: who refers to it, such as the id of a container.
        pid: process whose end ends the reference, as the daemon sees it; 0 for none.
    """

    name: str
    holder: str
    pid: int = 0


class Unmount(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """Take a reference back; one that is not known is not an error. Answered by VolumeState.

    Attributes:
        all: take all references of the holder back; of every holder if `holder` is empty.
    """

    name: str
    holder: str
    all: bool = False


class Volumes(msgspec.Struct, tag=True):
    """All volumes, in the order of their names."""

    volumes: list[VolumeState]


class State(msgspec.Struct, tag=True):
    """One volume. `daemon` is the process that answers, in whose mount namespace volumes are."""

    volume: VolumeState
    daemon: int


Request = Create | Update | List | Inspect | Remove | Mount | Unmount
Reply = Volumes | State | Failed


def socket_path() -> str:
    """Return where the control socket is."""
    return os.path.join(config.runtime_directory(), "control.sock")


class Client:
    """A connection to the daemon. Raises what the daemon raised, as the same FusevolError."""

    def __init__(self) -> None:
        """Connect.

        Raises:
            NotFoundError: the daemon does not run.
            NotPermittedError: it runs for another user.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_TIMEOUT_S)
        try:
            self._socket.connect(socket_path())
        except PermissionError:
            self._socket.close()
            raise NotPermittedError(
                f"{socket_path()}: permission denied; the daemon belongs to another user"
            ) from None
        except OSError:
            self._socket.close()
            raise NotFoundError(
                "fusevol serve is not running; start it with `systemctl start fusevol` or "
                "`fusevol serve`"
            ) from None
        self._buffer = b""
        self.pid = 0
        """Process id of the daemon, once it has reported a volume."""

    def create(self, name: str, options: dict[str, str]) -> VolumeState:
        """Make a volume; an empty `name` makes an anonymous one. Options as after `-o`."""
        return self._state(Create(name, options))

    def update(self, name: str, options: dict[str, str]) -> VolumeState:
        """Change options of a volume."""
        return self._state(Update(name, options))

    def list(self) -> "list[VolumeState]":
        """Return all volumes, in the order of their names."""
        reply = self._ask(List())
        assert isinstance(reply, Volumes)
        return reply.volumes

    def inspect(self, name: str) -> VolumeState:
        """Return one volume."""
        return self._state(Inspect(name))

    def remove(self, name: str) -> VolumeState:
        """Remove a volume, and its data if fusevol keeps them; FusevolError while it is in use."""
        return self._state(Remove(name))

    def mount(self, name: str, holder: str, pid: int = 0) -> VolumeState:
        """Refer to a volume, have it served, and return it; its `mountpoint` can then be bound.

        Args:
            name: the volume.
            holder: who refers to it, such as the full id of a container.
            pid: process whose end ends the reference (in the daemon's view); 0 for none.
        """
        return self._state(Mount(name, holder, pid))

    def unmount(self, name: str, holder: str, *, all: bool = False) -> VolumeState:
        """Take a reference back, or `all` that `holder` (empty: anybody) has."""
        return self._state(Unmount(name, holder, all))

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def _state(self, request: msgspec.Struct) -> VolumeState:
        reply = self._ask(request)
        assert isinstance(reply, State)
        self.pid = reply.daemon
        return reply.volume

    def _ask(self, request: msgspec.Struct) -> Volumes | State:
        try:
            self._socket.sendall(encode(request) + b"\n")
            line = self._line()
        except TimeoutError:
            raise FusevolError("fusevol serve does not answer; see its messages") from None
        except ConnectionError as error:
            raise FusevolError(f"fusevol serve closed the connection: {error.strerror}") from None
        reply: Reply = decode(line, Reply)
        if isinstance(reply, Failed):
            raise reply.error()
        return reply

    def _line(self) -> bytes:
        deadline = time.monotonic() + _TIMEOUT_S
        while b"\n" not in self._buffer:
            if time.monotonic() > deadline:
                raise TimeoutError
            data = self._socket.recv(1 << 16)
            if not data:
                raise FusevolError("fusevol serve exited before it answered; see its messages")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
