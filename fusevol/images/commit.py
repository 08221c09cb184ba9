"""An image made of what a container changed, on top of the one it was made from."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import IO, Any, Final, NamedTuple

from fusevol.containers.pause import held_still
from fusevol.containers.state import Container
from fusevol.errors import FusevolError, NotFoundError, UsageError
from fusevol.images.blobs import (
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    BlobDescriptor,
)
from fusevol.images.changes import write_layer
from fusevol.images.image import open_image, this_platform
from fusevol.images.instructions import apply_changes
from fusevol.images.layout import BlobWriter, Built, add_to_index, prepare_layout, write_archive
from fusevol.images.reference import ImageReference

_OCI_TYPES: Final = {DOCKER_LAYER: OCI_LAYER, DOCKER_LAYER_GZIP: OCI_LAYER_GZIP}
"""Docker's names of layers in the words of OCI; the layers are the same."""

_OF_THE_BUILD: Final = ("container", "container_config", "docker_version", "id", "parent")
"""What a Docker image's configuration says about how that image was made."""

_EPOCH_DIGITS: Final = 11
"""Of seconds since 1970 until the year 5138; RFC 3339 ends with 9999."""


class Wishes(NamedTuple):
    """What the user wants to stand in the image.

    Attributes:
        changes: instructions of a Dockerfile (`images.instructions`).
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

    layers: list[BlobDescriptor]
    config: dict[str, Any]
    annotations: dict[str, str]


def commit(container: Container, target: ImageReference, wishes: Wishes) -> Committed:
    """Write an image of a container.

    Reproducible: with SOURCE_DATE_EPOCH in the environment, that is the image's time, and no file
    is newer; the same changes give the same image then.

    Raises:
        FusevolError: it cannot be written, or something in it cannot be in an image.
    """
    # What the user got wrong is said before anything is made.
    apply_changes({}, wishes.changes)
    _epoch()
    with _layout_for(target) as layout:
        blobs = BlobWriter(layout)
        base = _base(blobs, container)
        apply_changes(base.config["config"], wishes.changes)
        # The base is there by now: the container stands still for its own changes only.
        still = held_still(container) if wishes.pause else nullcontext(not container.is_running)
        with still as consistent:
            layer, diff_id = _layer_of_changes(blobs, container)
        image = _build(blobs, base, layer, diff_id, container, wishes)
        if target.form == "oci":
            add_to_index(layout, image.entry, target.tag)
        else:
            write_archive(target, layout, image, _now_s())
    return Committed(image.digest, image.config, consistent)


@contextmanager
def _layout_for(target: ImageReference) -> Iterator[str]:
    """Yield where the blobs go: to stay, or until the archive is written."""
    if target.form == "oci":
        prepare_layout(target.path)
        yield target.path
        return
    directory = None if target.path == "-" else os.path.dirname(target.path)
    if os.path.isdir(target.path):
        raise UsageError(f"{target.path} is a directory; give the name of a file, or use oci:DIR")
    if directory and not os.path.isdir(directory):
        raise UsageError(f"directory {directory} does not exist; create it first")
    try:
        temporary = tempfile.TemporaryDirectory(dir=directory, prefix=".fusevol-commit-")
    except OSError as error:
        raise FusevolError(f"{directory} cannot be written: {error.strerror}") from None
    with temporary as layout:
        yield layout


def _layer_of_changes(blobs: BlobWriter, container: Container) -> tuple[BlobDescriptor, str]:
    newest = _epoch()

    def write(out: IO[bytes]) -> None:
        write_layer(container.upper, out, container.lowers, newest)

    made = blobs.put_layer(write, OCI_LAYER_GZIP)
    try:
        Container.load(container.id)
        os.lstat(container.upper)
    except FileNotFoundError:
        raise NotFoundError(
            f"container {container.name} was removed meanwhile; no image was created"
        ) from None
    return made


def _build(
    blobs: BlobWriter, base: _Base, layer: BlobDescriptor, diff_id: str, container: Container,
    wishes: Wishes,
) -> Built:  # fmt: skip
    now = _rfc3339(_now_s())
    config = base.config
    config["created"] = now
    config["rootfs"]["diff_ids"].append(diff_id)
    entry = {
        "created": now,
        "created_by": _text(f"fusevol commit ({' '.join(container.command)})"),
        "comment": _text(wishes.message),
        "author": _text(wishes.author),
    }
    config["history"].append({key: value for key, value in entry.items() if value})
    if wishes.author:
        config["author"] = _text(wishes.author)
    config_blob = blobs.put_document(config, OCI_CONFIG)
    layers = [*base.layers, layer]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _reference(config_blob),
        "layers": [_reference(one) for one in layers],
        "annotations": {"org.opencontainers.image.created": now, **base.annotations},
    }
    manifest_blob = blobs.put_document(manifest, OCI_MANIFEST)
    digests = [one.digest for one in layers]
    return Built(
        {**_reference(manifest_blob), "platform": _platform(config)},
        config_blob.digest,
        digests,
        [*digests, config_blob.digest, manifest_blob.digest],
    )


def _base(blobs: BlobWriter, container: Container) -> _Base:
    if not container.image:
        return _base_of_directory(blobs, container)
    image = open_image(container.image, container.manifest_digest)
    for layer in image.layers:
        blobs.copy(image.layout, layer.blob)
    config = {key: value for key, value in image.config.items() if key not in _OF_THE_BUILD}
    config["config"] = dict(config.get("config") or {})
    config["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id for layer in image.layers]}
    config["history"] = _history(config.get("history"), len(image.layers))
    annotations = {"org.opencontainers.image.base.digest": image.manifest_digest}
    return _Base([layer.blob for layer in image.layers], config, annotations)


def _history(history: Any, layers: int) -> list[dict[str, Any]]:
    """Return a history in which as many entries as there are layers are not empty."""
    found = [entry for entry in history if isinstance(entry, dict)] if history else []
    filled = sum(not entry.get("empty_layer") for entry in found)
    if filled > layers:
        found, filled = [], 0
    return found + [{"comment": "unknown"}] * (layers - filled)


def _base_of_directory(blobs: BlobWriter, container: Container) -> _Base:
    """Make a layer of the directory that the container was made from."""
    (directory,) = container.lowers
    newest = _epoch()
    layer, diff_id = blobs.put_layer(
        lambda out: write_layer(directory, out, newest_s=newest), OCI_LAYER_GZIP
    )
    here = this_platform()
    config: dict[str, Any] = {
        "architecture": here.architecture,
        "os": here.os,
        "config": {"Cmd": [_text(word) for word in container.command]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [
            {"created": _rfc3339(_now_s()), "created_by": "fusevol commit (root directory)"}
        ],
    }
    if here.variant:
        config["variant"] = here.variant
    return _Base([layer], config, {})


def _reference(blob: BlobDescriptor) -> dict[str, Any]:
    media_type = _OCI_TYPES.get(blob.media_type, blob.media_type)
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}


def _platform(config: dict[str, Any]) -> dict[str, str]:
    return {key: config[key] for key in ("architecture", "os", "variant") if config.get(key)}


def _text(text: str) -> str:
    """Return text as JSON can hold it, which knows no bytes that are not UTF-8."""
    return os.fsencode(text).decode("utf-8", "replace")


def _epoch() -> int | None:
    """Return SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/source-date-epoch)."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _EPOCH_DIGITS):
        raise UsageError(f"invalid SOURCE_DATE_EPOCH={text}: expected a number of seconds")
    return int(text)


def _now_s() -> int:
    epoch = _epoch()
    return int(time.time()) if epoch is None else epoch


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
