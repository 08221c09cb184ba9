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
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from typing import Any, Final

import msgspec
import trio
from msgspec.json import decode

from fusevol.errors import FusevolError, UsageError
from fusevol.server import http_server
from fusevol.server.control import VolumeState
from fusevol.server.http_server import HttpRequest, HttpResponse
from fusevol.server.volumes import Volumes

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/vnd.docker.plugins.v1.1+json"

CONNECTIONS_MAX: Final = 256
"""An engine has a few, for as long as it runs."""

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


Said = dict[str, Any]
"""What is answered, before it becomes JSON."""


def options(words: Mapping[str, str]) -> dict[str, str]:
    """Return Docker's `-o` words as words for `server.volume_options`.

    Understood besides those: what the driver `local` takes, `type`, `device` and `o=WORD,WORD=...`.

    Raises:
        UsageError: a word of `o`, or a type, that a volume of fusevol cannot have.
    """
    found = {key: value for key, value in words.items() if key not in ("type", "o")}
    kind = words.get("type", "fusevol")
    if kind not in _LOCAL_TYPES:
        raise UsageError(
            f"invalid volume option type={kind}: use {', '.join(_LOCAL_TYPES)}, or leave it out"
        )
    for word in words.get("o", "").split(","):
        key, equals, value = word.partition("=")
        if not word or word in _LOCAL_WORDS:
            continue
        if key in found:
            raise UsageError(f"volume option {key} is given twice")
        found[key] = value if equals else "true"
    return found


async def serve(
    volumes: Volumes,
    where: str | socket.socket,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer engines until cancelled.

    Args:
        volumes: loaded: Docker takes an answer that a volume does not exist for the last word.
        where: path of the socket to make, and to remove at the end; or a listening one, which is
            left where it is.
        task_status: started when connections are accepted.

    Raises:
        FusevolError: the socket cannot be made.
    """
    driver = Driver(volumes)
    await http_server.serve(
        driver.answer, refused, where,
        name="the volume plugin", connections_max=CONNECTIONS_MAX, task_status=task_status,
    )  # fmt: skip


class Driver:
    """The calls of the protocol."""

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        self._calls: Final[Mapping[str, Callable[[HttpRequest], Awaitable[Said]]]] = {
            "/Plugin.Activate": self._activate,
            "/VolumeDriver.Capabilities": self._capabilities,
            "/VolumeDriver.Create": self._create,
            "/VolumeDriver.Get": self._get,
            "/VolumeDriver.List": self._list,
            "/VolumeDriver.Mount": self._mount,
            "/VolumeDriver.Path": self._path,
            "/VolumeDriver.Remove": self._remove,
            "/VolumeDriver.Unmount": self._unmount,
        }

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Carry out a request; what goes wrong is in the answer."""
        call = self._calls.get(request.path)
        if call is None:
            return refused(404, f"{request.path[:80]} is not a call of the volume plugin protocol")
        if request.method != "POST":
            return refused(405, f"{request.path} requires POST")
        try:
            return _json(await call(request))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return refused(400, f"invalid request: {error}")
        except FusevolError as error:
            return refused(500, str(error))
        except Exception:
            logger.exception("%s failed", request.path)
            return refused(500, "unexpected error; see the messages of fusevol serve")

    async def _activate(self, _request: HttpRequest) -> Said:
        return {"Implements": ["VolumeDriver"]}

    async def _capabilities(self, _request: HttpRequest) -> Said:
        return {"Capabilities": {"Scope": "local"}}

    async def _create(self, request: HttpRequest) -> Said:
        said = decode(request.body, type=Create)
        if not said.name:
            # Empty is for the control socket, where it asks for a name.
            raise UsageError("a volume needs a name")
        await self._volumes.create(said.name, options(said.opts or {}))
        return {"Err": ""}

    async def _get(self, request: HttpRequest) -> Said:
        state = self._volumes.get(decode(request.body, type=Named).name)
        return {"Volume": _described(state), "Err": ""}

    async def _list(self, _request: HttpRequest) -> Said:
        return {"Volumes": [_described(state) for state in self._volumes.all()], "Err": ""}

    async def _path(self, request: HttpRequest) -> Said:
        state = self._volumes.get(decode(request.body, type=Named).name)
        return {"Mountpoint": state.mountpoint, "Err": ""}

    async def _remove(self, request: HttpRequest) -> Said:
        name = decode(request.body, type=Named).name
        await self._volumes.remove(name, by_engine=True)
        return {"Err": ""}

    async def _mount(self, request: HttpRequest) -> Said:
        said = decode(request.body, type=Use)
        state = await self._volumes.mount(said.name, said.id)
        with closing(request.asker()) as asker:
            why = await trio.to_thread.run_sync(asker.why_not_seen, state.mountpoint)
        if why:
            await self._volumes.take_back(said.name, said.id)
            raise FusevolError(f"volume {said.name}, at {state.mountpoint}: {why}")
        if request.is_abandoned():
            # Podman waits for 5 s only, and does not unmount what it does not know to be mounted.
            await self._volumes.unmount(said.name, said.id)
            raise FusevolError(
                f"volume {said.name} was mounted too late: the engine no longer waits for it"
            )
        return {"Mountpoint": state.mountpoint, "Err": ""}

    async def _unmount(self, request: HttpRequest) -> Said:
        said = decode(request.body, type=Use)
        await self._volumes.unmount(said.name, said.id)
        return {"Err": ""}


def _described(state: VolumeState) -> Said:
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


def refused(status: int, text: str) -> HttpResponse:
    """Return the answer to a request that failed."""
    return _json({"Err": text}, status)


def _json(said: Said, status: int = 200) -> HttpResponse:
    # Paths that are not UTF-8 reach us as surrogates, which JSON text cannot hold.
    return HttpResponse(status, msgspec.json.encode(_without_surrogates(said)), CONTENT_TYPE)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="surrogateescape").decode(errors="replace")
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_surrogates(one) for one in value]
    return value
