"""HTTP/1.1 on a socket: connections for one handler of requests, by h11 and trio.

h11 does the protocol; here are its connections, as engines and scrapers want them:

- What goes wrong with one ends neither the others nor the daemon.
- They are bounded in number, and in time wherever they wait for a client: for a request, for its
  body, for an answer to be taken. What a handler takes is its own affair.
- At the end requests under way have a moment to be answered: an engine repeats one that broke off,
  but without its body.

No TLS, no HTTP/2, no WebSocket: clients need none of them, and each would be a way to hang.
"""

import logging
import os
import select
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import h11
import trio

from fusevol.errors import FusevolError
from fusevol.mounts.visibility import Asker
from fusevol.server.control_server import listening_socket

logger = logging.getLogger(__name__)

IDLE_S: Final = 60.0
"""How long a client may take for the head of a request, or stay without one."""
BODY_S: Final = 30.0
"""How long it may take to send a body, and to take an answer."""
GRACE_S: Final = 1.0
"""How long requests that are under way may take when we end."""
HEAD_MAX_BYTES: Final = 1 << 14
BODY_MAX_BYTES: Final = 1 << 20

_RECEIVE_BYTES: Final = 1 << 16


class HttpResponse(NamedTuple):
    """What goes back.

    Attributes:
        headers: further ones, besides the type and the length of the body.
    """

    status: int
    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class HttpRequest:
    """A request that is there as a whole.

    Attributes:
        path: without the query.
        headers: by their names in small letters.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    _socket: trio.socket.SocketType

    def is_abandoned(self) -> bool:
        """Return whether the client has hung up; one that only sends no more has not."""
        poll = select.poll()
        poll.register(self._socket.fileno(), 0)
        return bool(poll.poll(0))

    def asker(self) -> Asker:
        """Return the client, of a Unix socket; to be closed."""
        return Asker(self._socket)


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]
Refusal = Callable[[int, str], HttpResponse]
"""Makes an answer of a status and a text, for requests that never reach the handler."""


async def serve(
    handler: Handler,
    refusal: Refusal,
    where: str | socket.socket,
    *,
    name: str,
    connections_max: int,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled.

    Args:
        handler: what answers; it raises nothing.
        refusal: what answers in its place if a request is none.
        where: path of the socket to make, with mode 0600, and to remove at the end; or a listening
            one, which somebody else removes.
        name: what is served, for messages.
        connections_max: how many there may be at a time; further ones are closed at once.
        task_status: started when connections are accepted.

    Raises:
        FusevolError: the socket cannot be made.
    """
    connections = _Connections(handler, refusal, name, connections_max)
    if isinstance(where, socket.socket):
        await connections.serve(where, task_status)
        return
    _make_directory(os.path.dirname(where))
    listening = listening_socket(where)
    made = os.stat(where)
    try:
        await connections.serve(listening, task_status)
    finally:
        _remove_socket(where, made)


class _Connections:
    """The connections of one socket."""

    def __init__(self, handler: Handler, refusal: Refusal, name: str, maximum: int) -> None:
        self._handler = handler
        self._refusal = refusal
        self._name = name
        self._maximum = maximum
        self._ending = trio.Event()
        self._count = 0
        self._idle: set[trio.CancelScope] = set()

    async def serve(self, listening: socket.socket, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled; `listening` is closed then."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        async with trio.open_nursery() as nursery:
            connections = await nursery.start(self._hold)
            try:
                task_status.started()
                await trio.serve_listeners(self._accept, [listener], handler_nursery=connections)
            finally:
                self._ending.set()

    async def _hold(self, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """Hold connections, until the end and for as long as requests may take then."""
        with trio.CancelScope(shield=True) as scope:
            async with trio.open_nursery() as connections:
                task_status.started(connections)
                await self._ending.wait()
                for idle in self._idle:
                    idle.cancel()
                scope.deadline = trio.current_time() + GRACE_S

    async def _accept(self, stream: trio.SocketStream) -> None:
        if self._count >= self._maximum:
            logger.warning("%s has %d connections, the maximum", self._name, self._count)
            await trio.aclose_forcefully(stream)
            return
        self._count += 1
        try:
            async with stream:
                await self._converse(_Connection(stream))
        except (trio.BrokenResourceError, trio.TooSlowError):
            pass  # the client is gone, or stuck
        except Exception:
            logger.exception("a connection to %s broke", self._name)
        finally:
            self._count -= 1

    async def _converse(self, connection: "_Connection") -> None:
        while not self._ending.is_set():
            try:
                head = await self._next_head(connection)
                if head is None:
                    return
                body = await connection.body()
            except h11.RemoteProtocolError as error:
                answer = self._refusal(error.error_status_hint, f"invalid request: {error}")
            except _RefusedError as error:
                answer = self._refusal(error.status, str(error))
            else:
                answer = await self._handler(connection.request(head, body))
            if not await connection.answer(answer):
                return

    async def _next_head(self, connection: "_Connection") -> h11.Request | None:
        """Return the head of the next request; None if none comes."""
        with trio.move_on_after(IDLE_S) as idle:
            self._idle.add(idle)
            try:
                return await connection.head()
            finally:
                self._idle.discard(idle)
        return None


class _RefusedError(Exception):
    """A request that is not to be read any further."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Connection:
    """h11's state of a connection, and the stream that it is about."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._state = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX_BYTES)
        self._method = ""

    async def head(self) -> h11.Request | None:
        """Return the head of the next request; None if the client sends no more."""
        event = await self._next_event()
        return event if isinstance(event, h11.Request) else None

    async def body(self) -> bytes:
        """Return the body of the request.

        Raises:
            _RefusedError: it is too long, or takes too long.
        """
        body = bytearray()
        try:
            with trio.fail_after(BODY_S):
                while isinstance(event := await self._next_event(), h11.Data):
                    body += event.data
                    if len(body) > BODY_MAX_BYTES:
                        raise _RefusedError(
                            413, f"the request has more than {BODY_MAX_BYTES} bytes"
                        )
        except trio.TooSlowError:
            raise _RefusedError(408, f"the request did not arrive within {BODY_S:g} s") from None
        return bytes(body)

    def request(self, head: h11.Request, body: bytes) -> HttpRequest:
        """Return a request for a handler."""
        self._method = head.method.decode("ascii")
        path = head.target.partition(b"?")[0].decode("ascii")
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
        return HttpRequest(self._method, path, headers, body, self._stream.socket)

    async def answer(self, answer: HttpResponse) -> bool:
        """Send an answer; return whether there may be another request."""
        if self._state.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return False
        headers = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            *answer.headers,
        ]
        events = [h11.Response(status_code=answer.status, headers=headers), h11.EndOfMessage()]
        if self._method != "HEAD":
            events.insert(1, h11.Data(data=answer.body))
        await self._send(*events)
        if {*self._state.states.values()} != {h11.DONE}:
            return False
        self._state.start_next_cycle()
        self._method = ""
        return True

    async def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while (event := self._state.next_event()) is h11.NEED_DATA:
            if self._state.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._state.receive_data(await self._stream.receive_some(_RECEIVE_BYTES))
        return event

    async def _send(self, *events: h11.Event) -> None:
        data = b"".join(self._state.send(event) or b"" for event in events)
        with trio.fail_after(BODY_S):
            await self._stream.send_all(data)


def _make_directory(path: str) -> None:
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
    except OSError as error:
        raise FusevolError(f"cannot create {path}: {error.strerror}") from None


def _remove_socket(path: str, made: os.stat_result) -> None:
    """Remove a socket of ours: Docker waits 15 s for one that nobody listens on."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    # Another daemon may have put its own there meanwhile.
    if stat.S_ISSOCK(found.st_mode) and os.path.samestat(found, made):
        os.unlink(path)
