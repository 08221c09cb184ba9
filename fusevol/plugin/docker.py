"""The volume driver `fusevol` for Docker and Podman: volume plugin protocol 1.1 over HTTP.

Protocol: https://docs.docker.com/engine/extend/plugins_volume/ and moby's pkg/plugins. What follows
from how the engines use it:

- Every failure is an HTTP status other than 200 with `{"Err": ...}`: Podman takes 200 for success.
- Neither Content-Type nor Accept nor Host are looked at: Docker sends none of the first.
- A request whose body is missing changes nothing: Docker repeats one that broke off without it.
- Docker holds a volume by a random id for each container, Podman all of them by one fixed id.

Runs in trio.
"""

import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.trio import serve as serve_http
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from fusevol.daemon.control import VolumeState
from fusevol.daemon.control_server import listening_socket
from fusevol.daemon.volumes import Volumes
from fusevol.errors import FusevolError, UsageError

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/vnd.docker.plugins.v1.1+json"
BODY_MAX_BYTES: Final = 1 << 20
_READ_S: Final = 30
"""How long a client may take to send a request, and may stay without sending one."""
_GRACE_S: Final = 1.0

_LOCAL_TYPES: Final = ("fusevol", "none", "bind")
_LOCAL_WORDS: Final = ("bind", "rbind", "rw")
"""What Compose files written for the driver `local` say, and what is the case anyway."""


class Named(msgspec.Struct):
    """A request that names a volume."""

    name: str = msgspec.field(name="Name")


class Create(Named):
    """The request to make a volume."""

    opts: dict[str, str] | None = msgspec.field(name="Opts", default=None)


class Use(Named):
    """The request to mount or unmount; `id` stands for a container."""

    id: str = msgspec.field(name="ID", default="")


Body = TypeVar("Body", bound=msgspec.Struct)
Answer = dict[str, Any]
Endpoint = Callable[[Request], Awaitable[Response]]


def options(words: Mapping[str, str]) -> dict[str, str]:
    """Return Docker's `-o` words as words for `daemon.volume_options`.

    Understood besides those: what the driver `local` takes, `type`, `device` and `o=WORD,WORD=...`.

    Raises:
        UsageError: a word of `o`, or a type, that a volume of fusevol cannot have.
    """
    found = {key: value for key, value in words.items() if key not in ("type", "o")}
    kind = words.get("type", "fusevol")
    if kind not in _LOCAL_TYPES:
        raise UsageError(
            f"volume option type={kind}: use {', '.join(_LOCAL_TYPES)}, or leave it out"
        )
    for word in words.get("o", "").split(","):
        key, equals, value = word.partition("=")
        if not word or word in _LOCAL_WORDS:
            continue
        if key in found:
            raise UsageError(f"volume option {key} is given twice")
        found[key] = value if equals else "true"
    return found


def application(volumes: Volumes) -> Starlette:
    """Return the ASGI application that answers for `volumes`."""
    driver = _Driver(volumes)
    endpoints: dict[str, Endpoint] = {
        "/Plugin.Activate": driver.activate,
        "/VolumeDriver.Capabilities": driver.capabilities,
        "/VolumeDriver.Create": driver.create,
        "/VolumeDriver.Get": driver.get,
        "/VolumeDriver.List": driver.list,
        "/VolumeDriver.Mount": driver.mount,
        "/VolumeDriver.Path": driver.path,
        "/VolumeDriver.Remove": driver.remove,
        "/VolumeDriver.Unmount": driver.unmount,
    }
    routes = [
        Route(path, _answering(endpoint), methods=["POST"]) for path, endpoint in endpoints.items()
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refuse})


async def serve(
    volumes: Volumes,
    where: str | socket.socket,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer engines until cancelled.

    Args:
        volumes: loaded: Docker takes an answer that a volume does not exist for the last word.
        where: path of the socket to make, and to remove at the end (Docker waits 15 s for one that
            nobody listens on); or a listening one, which is left alone.
        task_status: told when connections are accepted.

    Raises:
        FusevolError: the socket cannot be made.
    """
    if isinstance(where, str):
        _make_directory(where)
        listening = listening_socket(where)
    else:
        listening = where
    config = Config()
    config.bind = [f"fd://{listening.fileno()}"]
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.read_timeout = _READ_S
    config.keep_alive_timeout = _READ_S
    config.graceful_timeout = _GRACE_S
    config.h11_max_incomplete_size = 1 << 14
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_serve_http, application(volumes), config)
            task_status.started()
    finally:
        listening.detach()
        if isinstance(where, str):
            _remove_socket(where)


async def _serve_http(
    app: Starlette, config: Config, *, task_status: trio.TaskStatus[list[str]]
) -> None:
    await serve_http(app, config, task_status=task_status)  # type: ignore[arg-type]  # ASGI types


class _Driver:
    """The endpoints, named after what is called."""

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes

    async def activate(self, _request: Request) -> Response:
        return _json({"Implements": ["VolumeDriver"]})

    async def capabilities(self, _request: Request) -> Response:
        return _json({"Capabilities": {"Scope": "local"}})

    async def create(self, request: Request) -> Response:
        said = await _body(request, Create)
        if not said.name:
            # Empty is for the control socket, where it asks for a name.
            raise UsageError("a volume needs a name")
        await self._volumes.create(said.name, options(said.opts or {}))
        return _json({"Err": ""})

    async def get(self, request: Request) -> Response:
        said = await _body(request, Named)
        return _json({"Volume": _described(self._volumes.get(said.name)), "Err": ""})

    async def list(self, _request: Request) -> Response:
        return _json({"Volumes": [_described(one) for one in self._volumes.all()], "Err": ""})

    async def path(self, request: Request) -> Response:
        said = await _body(request, Named)
        return _json({"Mountpoint": self._volumes.get(said.name).mountpoint, "Err": ""})

    async def remove(self, request: Request) -> Response:
        await self._volumes.remove((await _body(request, Named)).name)
        return _json({"Err": ""})

    async def mount(self, request: Request) -> Response:
        said = await _body(request, Use)
        state = await self._volumes.mount(said.name, said.id)
        return _json({"Mountpoint": state.mountpoint, "Err": ""})

    async def unmount(self, request: Request) -> Response:
        said = await _body(request, Use)
        await self._volumes.unmount(said.name, said.id)
        return _json({"Err": ""})


def _answering(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint with its errors as answers."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _failed(400, f"request not understood: {error}")
        except HTTPException as error:
            return _failed(error.status_code, error.detail)
        except ClientDisconnect:
            return _failed(400, "the request broke off")
        except FusevolError as error:
            return _failed(500, str(error))
        except Exception:
            logger.exception("%s failed", request.url.path)
            return _failed(500, "unexpected error; see the messages of fusevol serve")

    return answer


async def _body(request: Request, kind: type[Body]) -> Body:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_MAX_BYTES:
            raise HTTPException(413, f"the request is longer than {BODY_MAX_BYTES} bytes")
    return msgspec.json.decode(data, type=kind)


def _described(state: VolumeState) -> Answer:
    status = {
        "state": state.state,
        "source": state.source,
        "subpath": state.subpath,
        "record": state.record,
        "read_only": state.read_only,
        "log": state.log,
        "on_log_failure": state.on_log_failure,
        "references": state.references,
        "message": state.message,
    }
    return {
        "Name": state.name,
        "Mountpoint": state.mountpoint,
        "CreatedAt": state.created,
        "Status": {key: value for key, value in status.items() if value not in ("", None)},
    }


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _failed(error.status_code, f"{error.detail}: no such call of the volume plugin protocol")


def _failed(status: int, text: str) -> Response:
    return _json({"Err": text}, status)


def _json(content: Answer, status: int = 200) -> Response:
    # Paths that are no UTF-8 reach us as surrogates, which JSON text cannot hold.
    data = msgspec.json.encode(_without_surrogates(content))
    return Response(data, status, media_type=CONTENT_TYPE)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="surrogateescape").decode(errors="replace")
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_surrogates(one) for one in value]
    return value


def _make_directory(path: str) -> None:
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
    except OSError as error:
        raise FusevolError(f"{directory} cannot be made: {error.strerror}") from None


def _remove_socket(path: str) -> None:
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
