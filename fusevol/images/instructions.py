"""Changes of an image's settings in the words of a Dockerfile: `--change 'CMD ["sh"]'`.

Written as `docker commit --change` takes them. Variables are not expanded. VOLUME is not among
them: what fusevol makes asks for no volumes.
"""

import json
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any, Final

from fusevol.errors import UsageError

_PORT: Final = re.compile(r"\d{1,5}(-\d{1,5})?(/(tcp|udp|sctp))?")
_SIGNAL: Final = re.compile(r"(SIG)?[A-Z][A-Z0-9+-]*|\d{1,2}")

Settings = dict[str, Any]
"""`config` of an image's configuration (image-spec, config.md)."""


def apply_changes(settings: Settings, changes: Sequence[str]) -> None:
    """Change the settings of an image, one instruction after the other.

    As with `docker commit`, a new entry point takes away the image's command, which belonged to the
    old one, unless the command is changed, too.

    Raises:
        UsageError: an instruction is unknown or is not valid.
    """
    words = [_split(change) for change in changes]
    for name, rest, change in words:
        _INSTRUCTIONS[name](settings, rest, change)
    names = {name for name, _rest, _change in words}
    if "ENTRYPOINT" in names and "CMD" not in names:
        settings.pop("Cmd", None)


def _split(change: str) -> tuple[str, str, str]:
    name, _, rest = change.strip().partition(" ")
    if name.upper() not in _INSTRUCTIONS:
        known = ", ".join(_INSTRUCTIONS)
        raise UsageError(
            f"invalid --change {change!r}: unknown instruction {name!r}; use one of {known}"
        )
    if not rest.strip():
        raise UsageError(f"invalid --change {change!r}: {name} needs a value")
    return name.upper(), rest.strip(), change


def _command(key: str) -> Callable[[Settings, str, str], None]:
    def change_command(settings: Settings, rest: str, change: str) -> None:
        settings[key] = _words(rest, change) if rest[0] == "[" else ["/bin/sh", "-c", rest]

    return change_command


def _words(rest: str, change: str) -> list[str]:
    try:
        words = json.loads(rest)
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UsageError(
            f'invalid --change {change!r}: expected a list such as ["sh", "-c", "true"], or a line'
        )
    return words


def _env(settings: Settings, rest: str, change: str) -> None:
    env: dict[str, str] = {}
    for entry in settings.get("Env") or []:
        name, _, value = entry.partition("=")
        env[name] = value
    env.update(_pairs(rest, change))
    settings["Env"] = [f"{name}={value}" for name, value in env.items()]


def _label(settings: Settings, rest: str, change: str) -> None:
    settings["Labels"] = {**(settings.get("Labels") or {}), **_pairs(rest, change)}


def _pairs(rest: str, change: str) -> dict[str, str]:
    """Return what `NAME=VALUE...`, or `NAME VALUE` as in old Dockerfiles, says."""
    first, _, value = rest.partition(" ")
    if "=" not in first and value:
        return {first: value.strip()}
    try:
        words = shlex.split(rest)
    except ValueError:
        words = [""]
    if any(word.find("=") < 1 for word in words):
        raise UsageError(
            f"invalid --change {change!r}: expected NAME=VALUE, with quotes around spaces"
        )
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _user(settings: Settings, rest: str, change: str) -> None:
    settings["User"] = _single(rest, change)


def _workdir(settings: Settings, rest: str, _change: str) -> None:
    base = "" if rest.startswith("/") else (settings.get("WorkingDir") or "").rstrip("/") + "/"
    settings["WorkingDir"] = base + rest


def _stop_signal(settings: Settings, rest: str, change: str) -> None:
    if not _SIGNAL.fullmatch(rest):
        raise UsageError(f"invalid --change {change!r}: expected a signal such as SIGTERM")
    settings["StopSignal"] = rest


def _expose(settings: Settings, rest: str, change: str) -> None:
    ports = dict(settings.get("ExposedPorts") or {})
    for word in rest.split():
        if not _PORT.fullmatch(word):
            raise UsageError(f"invalid --change {change!r}: {word!r} is not a port such as 80/tcp")
        ports[word if "/" in word else f"{word}/tcp"] = {}
    settings["ExposedPorts"] = ports


def _single(rest: str, change: str) -> str:
    if len(rest.split()) != 1:
        raise UsageError(f"invalid --change {change!r}: expected one word")
    return rest


_INSTRUCTIONS: Final = {
    "CMD": _command("Cmd"), "ENTRYPOINT": _command("Entrypoint"), "ENV": _env,
    "EXPOSE": _expose, "LABEL": _label, "STOPSIGNAL": _stop_signal, "USER": _user,
    "WORKDIR": _workdir,
}  # fmt: skip
