"""Which volume appears where in a container: `NAME[/SUBPATH]:/DESTINATION[:ro]`."""

import os
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from fusevol.errors import UsageError

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}")


class Binding(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A volume and where it appears in a container.

    Attributes:
        volume: name of a volume of `fusevol serve`, or absolute path of a directory or file; empty
            for a new volume that goes with the container.
        subpath: what of a named volume appears, relative to its root; empty for all of it.
        destination: absolute path in the container.
    """

    volume: str
    destination: str
    subpath: str = ""
    read_only: bool = False

    @property
    def is_named(self) -> bool:
        """Whether the volume is one of `fusevol serve`, not a path."""
        return not self.volume.startswith("/") and bool(self.volume)


def is_volume_name(text: str) -> bool:
    """Return whether `text` can be the name of a volume, as with other engines.

    One letter is none: Docker takes `-v d:/x` for a drive of Windows, not for a volume.
    """
    return _NAME.fullmatch(text) is not None


def parse_binding(text: str) -> Binding:
    """Return what `NAME[/SUBPATH]:/DESTINATION[:ro|rw]` or `PATH:/DESTINATION[:ro|rw]` says.

    A path begins with "/", "./" or "../", or is "." or "..". `/DESTINATION` alone stands for a new
    volume.

    Raises:
        UsageError: it is not valid.
    """
    what, *rest = text.split(":")
    if not rest and what.startswith("/"):
        return Binding("", _checked_destination(what, text))
    if len(rest) not in (1, 2) or not what:
        raise UsageError(
            f"invalid volume {text!r}: use NAME:/DESTINATION or PATH:/DESTINATION[:ro]"
        )
    mode = rest[1] if len(rest) == 2 else "rw"
    if mode not in ("ro", "rw"):
        raise UsageError(f"invalid volume {text!r}: unknown mode {mode!r}; use ro or rw")
    destination = _checked_destination(rest[0], text)
    if what.startswith(("/", "./", "../")) or what in (".", ".."):
        return Binding(os.path.abspath(what), destination, read_only=mode == "ro")
    name, _, subpath = what.partition("/")
    if not is_volume_name(name):
        raise UsageError(
            f"invalid volume {text!r}: {name!r} is not a volume name, which has at least two "
            f"letters or digits; a path begins with / or ./"
        )
    if ".." in subpath.split("/"):
        raise UsageError(f"invalid volume {text!r}: a sub-path cannot contain '..'")
    return Binding(name, destination, subpath.strip("/"), mode == "ro")


def normal_destination(destination: str) -> str:
    """Return an absolute path of a container in its one form, as bindings have it.

    Raises:
        UsageError: it is not absolute, or the root.
    """
    return _checked_destination(destination, destination)


def check_places(bindings: Iterable[Binding]) -> None:
    """Raise UsageError if two volumes are to appear at one place."""
    seen = set()
    for binding in bindings:
        if binding.destination in seen:
            raise UsageError(f"two volumes cannot both be mounted at {binding.destination}")
        seen.add(binding.destination)


def _checked_destination(destination: str, text: str) -> str:
    if not destination.startswith("/") or "\0" in destination:
        raise UsageError(f"invalid volume {text!r}: expected an absolute path in the container")
    normal = os.path.normpath(destination)
    if normal.strip("/") == "":
        raise UsageError(f"invalid volume {text!r}: a volume cannot replace the container's root")
    return "/" + normal.lstrip("/")
