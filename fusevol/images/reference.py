"""Names of images, and where an image goes: `oci:DIR:TAG`, `docker-archive:FILE:NAME:TAG`."""

import os
import re
from typing import Final, NamedTuple

from fusevol.errors import UsageError

_FORMS: Final = ("oci", "oci-archive", "docker-archive")
_DEFAULT_TAG: Final = "latest"

_OCI_NAME: Final = re.compile(r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+|/[A-Za-z0-9]+)*")
"""org.opencontainers.image.ref.name (image-spec, annotations.md)."""

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST: Final = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_DOCKER_NAME: Final = re.compile(
    rf"(?P<name>(?:{_HOST}/)?{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?",
    re.ASCII,
)
"""As Docker has it (distribution, reference/regexp.go), without a digest."""


class ImageReference(NamedTuple):
    """Where an image goes.

    Attributes:
        form: oci, oci-archive or docker-archive.
        path: absolute path of the directory or file; "-" is standard output.
        tag: name in index.json; empty for none.
        docker_name: NAME:TAG for Docker; empty for none.
    """

    form: str
    path: str
    tag: str
    docker_name: str


def parse_target(text: str) -> ImageReference:
    """Return what the text names.

    Raises:
        UsageError: it names nothing that can be written, or the image cannot be called so.
    """
    form, _, rest = text.partition(":")
    path, _, name = rest.partition(":")
    if form not in _FORMS or not path or "\0" in rest or (form == "oci" and path == "-"):
        raise UsageError(
            f"invalid image {text!r}; use oci:DIR[:TAG], oci-archive:FILE[:NAME] or "
            f"docker-archive:FILE[:NAME[:TAG]]"
        )
    if path != "-":
        path = os.path.abspath(path)
    if form == "docker-archive":
        name = docker_name = _docker_name(name, text) if name else ""
    else:
        if form == "oci":
            name = name or _DEFAULT_TAG
        if name and not _OCI_NAME.fullmatch(name):
            raise UsageError(
                f"invalid image {text!r}: {name!r} is not a tag; use letters, digits, . _ and -"
            )
        # A tag alone is a name in index.json only; a whole name is one for Docker, too.
        is_name = form == "oci-archive" and (":" in name or "/" in name)
        docker_name = _docker_name(name, text) if is_name else ""
    return ImageReference(form, path, name, docker_name)


def _docker_name(name: str, text: str) -> str:
    match = _DOCKER_NAME.fullmatch(name)
    if match is None:
        raise UsageError(
            f"invalid image {text!r}: {name!r} is not an image name; use one such as web:1, in "
            f"lower case"
        )
    return f"{match['name']}:{match['tag'] or _DEFAULT_TAG}"


def full_name(docker_name: str) -> str:
    """Return NAME:TAG with registry, as Docker completes it (distribution, normalize.go)."""
    first, slash, _ = docker_name.partition("/")
    if slash and (set(first) & set(".:") or first == "localhost" or first != first.lower()):
        return docker_name
    return f"docker.io/{docker_name}" if slash else f"docker.io/library/{docker_name}"
