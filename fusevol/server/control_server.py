"""The control socket: answers one line with one line. Messages are in `server.control`."""

import logging
import os
import socket
import stat
from typing import Final, assert_never

import msgspec
import trio

from fusevol.errors import FusevolError, NotPermittedError, UsageError
from fusevol.mounts.encoding import decode, encode
from fusevol.mounts.visibility import credentials
from fusevol.processes.channel import Failed
from fusevol.server import control
from fusevol.server.control import REQUEST_MAX_BYTES, Reply, Request, State
from fusevol.server.volumes import Volumes

logger = logging.getLogger(__name__)

_BACKLOG: Final = 128


def listen(path: str) -> trio.SocketListener:
    """Return a listener on a new Unix socket; see `listening_socket`."""
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening_socket(path)))


def listening_socket(path: str) -> socket.socket:
    """Listen on a new Unix socket with mode 0600; a socket that is there is replaced.

    Raises:
        FusevolError: something else is there, or the path is too long.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
    before = os.umask(0o177)
    try:
        listening.bind(path)
    except OSError as error:
        listening.close()
        raise FusevolError(f"cannot listen on {path}: {error.strerror or error}") from None
    finally:
        os.umask(before)
    listening.listen(_BACKLOG)
    return listening


async def serve(volumes: Volumes, listener: trio.SocketListener) -> None:
    """Answer requests until cancelled; the socket is gone then."""
    path = listener.socket.getsockname()

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            await _talk(volumes, stream)

    try:
        await trio.serve_listeners(handle, [listener])
    finally:
        os.unlink(path)


async def _talk(volumes: Volumes, stream: trio.SocketStream) -> None:
    try:
        if not _is_allowed(stream):
            error = NotPermittedError("only root and the user of fusevol serve may control it")
            await _send(stream, _failed(error))
            return
        buffer = b""
        async for data in stream:
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                await _send(stream, await _answer(volumes, line))
            if len(buffer) > REQUEST_MAX_BYTES:
                await _send(stream, _failed(UsageError("the request is too long")))
                return
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # the client is gone


def _is_allowed(stream: trio.SocketStream) -> bool:
    _pid, uid, _gid = credentials(stream.socket)
    return uid in (0, os.geteuid())


async def _send(stream: trio.SocketStream, reply: Reply) -> None:
    await stream.send_all(encode(reply) + b"\n")


async def _answer(volumes: Volumes, line: bytes) -> Reply:
    try:
        request: Request = decode(line, Request)
        return await _carry_out(volumes, request)
    except msgspec.DecodeError as error:
        return _failed(UsageError(f"invalid request: {error}"))
    except FusevolError as error:
        return _failed(error)
    except Exception:
        logger.exception("a request failed: %r", line[:200])
        return _failed(FusevolError("unexpected error; see the messages of fusevol serve"))


async def _carry_out(volumes: Volumes, request: Request) -> Reply:
    match request:
        case control.Create():
            return State(await volumes.create(request.name, request.options), os.getpid())
        case control.Update():
            return State(await volumes.update(request.name, request.options), os.getpid())
        case control.List():
            return control.Volumes(volumes.all())
        case control.Inspect():
            return State(volumes.get(request.name), os.getpid())
        case control.Remove():
            return State(await volumes.remove(request.name), os.getpid())
        case control.Mount():
            return State(
                await volumes.mount(request.name, request.holder, request.pid), os.getpid()
            )
        case control.Unmount():
            return State(
                await volumes.unmount(request.name, request.holder, request.all), os.getpid()
            )
        case _:
            assert_never(request)


def _failed(error: FusevolError) -> Failed:
    return Failed.of(error)
