"""The configuration of `fusevol serve`: a TOML file, typed and validated.

idle_timeout = 10.0               # seconds until the worker of an unused volume ends

[docker]
enabled = true
socket = "/run/docker/plugins/fusevol.sock"

[volumes.data]                    # made, or changed, when the daemon starts
source = "/srv/data"
record = "data"
ro = true
deadline = 30                     # seconds
"""

import os
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from fusevol.daemon import volume_options
from fusevol.errors import FusevolError, NotFoundError, NotPermittedError, UsageError

DEFAULT_PATH: Final = "/etc/fusevol/fusevol.toml"
PLUGIN_SOCKET: Final = "/run/docker/plugins/fusevol.sock"
"""Where dockerd looks for a volume driver called fusevol."""


_NUMBERS: Final = frozenset(
    ("deadline", "coalesce", "rotate_size", "rotate_age", "keep_files", "keep_age", "quota",
     "space_warn", "space_act")
)  # fmt: skip
_LISTS: Final = {"sinks": "+", "include": "; ", "exclude": "; ", "success": " ", "failure": " "}
"""Option that may be a list -> what separates the words of it elsewhere."""


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


class Settings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """All of the configuration.

    Attributes:
        idle_timeout: seconds until the worker of a volume that nobody uses is stopped.
        volumes: name -> options, as after `-o`.
    """

    idle_timeout: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 10.0
    docker: Docker = Docker()
    volumes: dict[str, dict[str, Any]] = {}


def load(path: str | None) -> Settings:
    """Return what a file says; the defaults without `path`, if there is no DEFAULT_PATH.

    Raises:
        NotFoundError, NotPermittedError: the file cannot be read.
        UsageError: it is no TOML, or says what cannot be meant.
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
    if not settings.docker.socket.startswith("/"):
        raise UsageError(f"configuration {path}: docker.socket has to be an absolute path")
    for name, words in settings.volumes.items():
        try:
            volume_options.parse(options_of(words))
        except FusevolError as error:
            raise type(error)(f"configuration {path}: volume {name}: {error}") from None
    return settings


def options_of(words: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of a volume in the configuration as words for `volume_options.parse`.

    Raises:
        UsageError: a value is not a string, true or false; some may be numbers or lists.
    """
    return {word: _text(word, value) for word, value in words.items()}


def _text(word: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) or (isinstance(value, int | float) and word in _NUMBERS):
        return str(value)
    if isinstance(value, list) and word in _LISTS and all(isinstance(one, str) for one in value):
        return _LISTS[word].join(value)
    raise UsageError(f"option {word} has to be a string, true or false{_besides(word)}")


def _besides(word: str) -> str:
    if word in _NUMBERS:
        return ", or a number"
    return ", or a list of strings" if word in _LISTS else ""
