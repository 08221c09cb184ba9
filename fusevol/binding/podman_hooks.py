"""Where Podman looks for OCI hooks, and which files there call fusevol's.

A hook in a directory that Podman does not read is not run, and nobody says so: the container starts
without its volume. oci-hooks(5) names /etc/containers/oci/hooks.d, too, but Podman reads only
/usr/share/containers/oci/hooks.d unless containers.conf(5) has `hooks_dir`.
"""

import glob
import json
import os
import tomllib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

ANNOTATION: Final = "io.fusevol.mounts"
"""Volumes of a container, separated by commas, each as after `fusevol run -v`."""

DEFAULT_DIRECTORY: Final = "/usr/share/containers/oci/hooks.d"
_USUAL_DIRECTORIES: Final = (
    DEFAULT_DIRECTORY, "/usr/local/share/containers/oci/hooks.d",
    "/etc/containers/oci/hooks.d", "/run/containers/oci/hooks.d",
)  # fmt: skip
_CONFIGURATIONS: Final = (
    "/usr/share/containers/containers.conf",
    "/etc/containers/containers.conf",
)
_DROP_INS: Final = "/etc/containers/containers.conf.d/*.conf"


class HookFile(NamedTuple):
    """A file that has fusevol's hook called.

    Attributes:
        program: what it calls; empty if the file does not say.
        is_read: whether Podman reads it.
    """

    path: str
    program: str
    is_read: bool


def hook_files(
    directories: Iterable[str] | None = None, usual: Iterable[str] = _USUAL_DIRECTORIES
) -> list[HookFile]:
    """Return the files that call fusevol's hook, in every directory where one is usually put.

    Args:
        directories: those that Podman reads; default: as root's configuration says.
        usual: where else to look.
    """
    read = [os.path.realpath(path) for path in directories or hook_directories()]
    places = dict.fromkeys([*read, *map(os.path.realpath, usual)])
    return [
        HookFile(path, program, place in read)
        for place in places
        for path in sorted(glob.glob(os.path.join(glob.escape(place), "*.json")))
        for program in _program_of(path)
    ]


def hook_directories(
    configurations: Iterable[str] = _CONFIGURATIONS, drop_ins: str = _DROP_INS
) -> list[str]:
    """Return the directories in which root's Podman looks for hooks (containers.conf(5))."""
    override = os.environ.get("CONTAINERS_CONF")
    files = [override] if override else [*configurations, *sorted(glob.glob(drop_ins))]
    if more := os.environ.get("CONTAINERS_CONF_OVERRIDE"):
        files.append(more)
    found = [DEFAULT_DIRECTORY]
    for path in files:
        found = _configured(path) or found
    return found


def _configured(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            engine = tomllib.load(file).get("engine", {})
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        return []
    wanted = engine.get("hooks_dir", []) if isinstance(engine, dict) else []
    return [word for word in wanted if isinstance(word, str)] if isinstance(wanted, list) else []


def _program_of(path: str) -> Iterator[str]:
    """Yield the program of a hook that goes by fusevol's annotation, once; nothing for others."""
    try:
        with open(path, "rb") as file:
            content = json.load(file)
        annotations = content["when"]["annotations"]
        if any(ANNOTATION in pattern.replace("\\", "") for pattern in annotations):
            yield str(content["hook"]["path"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
