"""The configuration of `fusevol serve`: a TOML file, typed and validated.

idle_timeout = 10.0               # seconds until the worker of an unused volume ends

[docker]
enabled = true
socket = "/run/docker/plugins/fusevol.sock"

[metrics]                         # docs/monitoring.md
listen = "127.0.0.1:10469"        # or "unix:/run/fusevol/metrics.sock"; default: nowhere
token_file = "/etc/fusevol/metrics.token"
otlp = "http://collector:4318"
interval = 60                     # seconds

[volumes.data]                    # made, or changed, when the daemon starts
source = "/srv/data"
record = "data"
ro = true
deadline = "30s"
"""

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec

from fusevol.errors import FusevolError, NotFoundError, NotPermittedError, UsageError
from fusevol.options import volume_words
from fusevol.options.kinds import written
from fusevol.options.table import Option
from fusevol.server import volume_options

DEFAULT_PATH: Final = "/etc/fusevol/fusevol.toml"
PLUGIN_SOCKET: Final = "/run/docker/plugins/fusevol.sock"
"""Where dockerd looks for a volume driver called fusevol."""


class Docker(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The volume plugin for Docker and Podman.

    Attributes:
        enabled: None says: if the daemon runs as root.
        socket: absolute path; its name without `.sock` is the driver's.
    """

    enabled: bool | None = None
    socket: str = PLUGIN_SOCKET

    @property
    def is_enabled(self) -> bool:
        """Whether to serve it."""
        return os.geteuid() == 0 if self.enabled is None else self.enabled


class Metrics(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which metrics go to Prometheus, and by OpenTelemetry's protocol.

    Attributes:
        listen: where to answer Prometheus: IP address and port, or `unix:` and a path; empty for
            nowhere.
        token_file: file with what scrapers have to send as their bearer token; empty for none.
        otlp: URL of a collector to send metrics to by OTLP over HTTP; empty for none.
        interval: seconds from one sending to the next.
    """

    listen: str = ""
    token_file: str = ""
    otlp: str = ""
    interval: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 60.0

    def address(self) -> "Address":
        """Return where to listen.

        Raises:
            UsageError: it is not an address, or one that others can reach, without a token.
        """
        if self.listen.startswith("unix:/"):
            return self.listen.removeprefix("unix:")
        host, _, port = self.listen.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        try:
            address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        except ValueError:
            raise UsageError(
                f"invalid metrics.listen = {self.listen!r}: expected an IP address and a port, "
                f"such as 127.0.0.1:10469, or unix:/PATH"
            ) from None
        if not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
            raise UsageError(f"invalid metrics.listen = {self.listen!r}: {port!r} is not a port")
        if not address.is_loopback and not self.token_file:
            raise UsageError(
                f"metrics.listen = {self.listen!r}: containers and other machines can reach it; "
                f"set a metrics.token_file, or use 127.0.0.1"
            )
        return str(address), int(port)


Address = str | tuple[str, int]
"""Path of a Unix socket, or IP address and port."""


class Settings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """All of the configuration.

    Attributes:
        idle_timeout: seconds until the worker of a volume that nobody uses is stopped.
        volumes: name -> options, as after `-o`.
    """

    idle_timeout: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 10.0
    docker: Docker = Docker()
    metrics: Metrics = Metrics()
    volumes: dict[str, dict[str, Any]] = {}


def load(path: str | None) -> Settings:
    """Return what a file says; the defaults without `path`, if there is no DEFAULT_PATH.

    Raises:
        NotFoundError, NotPermittedError: the file cannot be read.
        UsageError: it is not TOML, or says what is not valid.
    """
    if path is None:
        if not os.path.exists(DEFAULT_PATH):
            return Settings()
        path = DEFAULT_PATH
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        raise NotFoundError(f"configuration {path} does not exist") from None
    except PermissionError:
        raise NotPermittedError(f"configuration {path}: permission denied") from None
    except OSError as error:
        raise UsageError(f"configuration {path} cannot be read: {error.strerror}") from None
    try:
        settings = msgspec.convert(tomllib.loads(text.decode()), Settings)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"configuration {path}: {error}") from None
    except RecursionError:
        raise UsageError(f"configuration {path}: it is nested too deeply") from None
    if not settings.docker.socket.startswith("/"):
        raise UsageError(f"configuration {path}: invalid docker.socket: expected an absolute path")
    try:
        _check(settings.metrics)
    except UsageError as error:
        raise UsageError(f"configuration {path}: {error}") from None
    for name, words in settings.volumes.items():
        try:
            volume_options.parse(options_of(words))
        except FusevolError as error:
            raise type(error)(f"configuration {path}: volume {name}: {error}") from None
    return settings


def with_listen(settings: Settings, listen: str) -> Settings:
    """Return settings with another address for metrics; UsageError if it is none."""
    metrics = msgspec.structs.replace(settings.metrics, listen=listen)
    _check(metrics)
    return msgspec.structs.replace(settings, metrics=metrics)


def _check(metrics: Metrics) -> None:
    if metrics.listen:
        metrics.address()
    if metrics.token_file and not metrics.token_file.startswith("/"):
        raise UsageError("invalid metrics.token_file: expected an absolute path")
    url = urlsplit(metrics.otlp)
    if metrics.otlp and (url.scheme not in ("http", "https") or not url.hostname):
        raise UsageError(
            f"invalid metrics.otlp = {metrics.otlp!r}: expected a URL such as http://127.0.0.1:4318"
        )


def options_of(words: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of a volume in the configuration as words for `volume_words.parse`.

    Raises:
        UsageError: an unknown option, or a value of another type than the option takes.
    """
    return {word: _text(volume_words.find(word), value) for word, value in words.items()}


def _text(option: Option, value: object) -> str:
    kind = option.kind
    if isinstance(value, bool):
        return written(value)
    if isinstance(value, str) or (kind.is_number and isinstance(value, int | float)):
        return str(value)
    if kind.separator and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return kind.separator.join(value)
    also = ", or a number" if kind.is_number else ", or a list of strings" if kind.separator else ""
    raise option.invalid(value, f"a string, true or false{also}")
