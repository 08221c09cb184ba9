"""An image made of what a container changed, on top of the one it was made from."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import IO, Any, Final, NamedTuple

from fusevol.container.blobs import (
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
)
from fusevol.container.changes import write_layer
from fusevol.container.image import open_image, this_platform
from fusevol.container.instructions import apply_changes
from fusevol.container.layout import BlobWriter, Built, add_to_index, check_layout, write_archive
from fusevol.container.pause import held_still
from fusevol.container.reference import Target
from fusevol.container.state import Container
from fusevol.errors import FusevolError, UsageError

_OCI_TYPES: Final = {DOCKER_LAYER: OCI_LAYER, DOCKER_LAYER_GZIP: OCI_LAYER_GZIP}
"""Docker's names of layers in the words of OCI; the layers are the same."""

_OF_THE_BUILD: Final = ("container", "container_config", "docker_version", "id", "parent")
"""What a Docker image's configuration says about how that image was made."""


class Wishes(NamedTuple):
    """What the user wants to stand in the image.

    Attributes:
        changes: instructions of a Dockerfile (`container.instructions`).
        pause: whether a running container is held still meanwhile.
    """

    message: str = ""
    author: str = ""
    changes: Sequence[str] = ()
    pause: bool = True


class Committed(NamedTuple):
    """What was made.

    Attributes:
        digest: of the manifest.
        config_digest: the image's id with Docker and Podman.
        consistent: whether the container stood still meanwhile, or did not run.
    """

    digest: str
    config_digest: str
    consistent: bool


class _Base(NamedTuple):
    """What is below the changes: layers, base first, and the config."""

    layers: list[Descriptor]
    config: dict[str, Any]
    annotations: dict[str, str]


def commit(container: Container, target: Target, wishes: Wishes) -> Committed:
    """Write an image of a container.

    Reproducible: with SOURCE_DATE_EPOCH in the environment, that is the image's time, and no file
    is newer; the same changes give the same image then.

    Raises:
        FusevolError: it cannot be written, or something in it cannot be in an image.
    """
    with _layout_for(target) as layout:
        blobs = BlobWriter(layout)
        base = _base(blobs, container)
        apply_changes(base.config["config"], wishes.changes)
        # The base is there by now: the container stands still for its own changes only.
        with (
            held_still(container)
            if wishes.pause
            else nullcontext(not container.is_running) as still
        ):
            layer, diff_id = blobs.put_layer(_changes_of(container), OCI_LAYER_GZIP)
        if not os.path.exists(container.upper):
            raise FusevolError(
                f"container {container.name} was removed meanwhile; no image is made"
            )
        image = _build(blobs, base, layer, diff_id, container, wishes)
        if target.form == "oci":
            add_to_index(layout, image.entry, target.tag)
        else:
            write_archive(target, layout, image, _now_s())
    return Committed(image.digest, image.config, still)


@contextmanager
def _layout_for(target: Target) -> Iterator[str]:
    """Yield where the blobs go: to stay, or until the archive is written."""
    if target.form == "oci":
        check_layout(target.path)
        yield target.path
        return
    directory = None if target.path == "-" else os.path.dirname(target.path)
    if os.path.isdir(target.path):
        raise UsageError(f"{target.path} is a directory; give the name of a file, or use oci:DIR")
    try:
        temporary = tempfile.TemporaryDirectory(dir=directory, prefix=".fusevol-commit-")
    except FileNotFoundError:
        raise UsageError(f"directory {directory} does not exist; make it first") from None
    except OSError as error:
        raise FusevolError(f"{directory} cannot be written: {error.strerror}") from None
    with temporary as layout:
        yield layout


class _Changes:
    def __init__(self, container: Container) -> None:
        self._container = container


"""placeholder"""
