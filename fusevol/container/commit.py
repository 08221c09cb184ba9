"""An image made of what a container changed, on top of the one it was made from."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any, Final, NamedTuple

from fusevol.container import cgroup
from fusevol.container.blobs import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from fusevol.container.changes import write_layer
from fusevol.container.image import open_image, this_platform
from fusevol.container.layout import BlobWriter, Target, add_to_index, write_archive
from fusevol.container.state import Container
from fusevol.errors import FusevolError, UsageError

_DEFAULT_TAG: Final = "latest"


class Committed(NamedTuple):
    """What was made.

    Attributes:
        digest: of the manifest.
        config_digest: the image's id with Docker and Podman.
        paused: whether the container stood still meanwhile, or did not run.
    """

    digest: str
    config_digest: str
    paused: bool


class _Base(NamedTuple):
    """What is below the changes: layers, base first, and the config."""

    layers: list[Descriptor]
    config: dict[str, Any]
    annotations: dict[str, str]


def commit(
    container: Container, target: Target, *, message: str, author: str, pause: bool
) -> Committed:
    """Write an image of a container.

    Reproducible: with SOURCE_DATE_EPOCH in the environment, that is the image's time, and no file
    is newer; the same changes give the same image then.

    Raises:
        FusevolError: it cannot be written, or something in it cannot be in an image.
    """
    if target.form == "oci":
        _make_layout(target.path)
        with _still(container, pause) as paused:
            made = _build(BlobWriter(target.path), container, message, author)
        add_to_index(target.path, made.entry, target.name or _DEFAULT_TAG)
        return Committed(made.entry["digest"], made.config, paused)
    directory = os.path.dirname(target.path)
    if not os.path.isdir(directory):
        raise UsageError(f"directory {directory} does not exist; make it first")
    with tempfile.TemporaryDirectory(dir=directory, prefix=".fusevol-commit-") as layout:
        with _still(container, pause) as paused:
            made = _build(BlobWriter(layout), container, message, author)
        docker = target.name if target.form == "docker-archive" else ""
        if docker and ":" not in docker:
            docker = f"{docker}:{_DEFAULT_TAG}"
        tag = docker.rpartition(":")[2] if docker else target.name
        write_archive(
            target.path, layout, made.entry, made.blobs, made.config, made.layers, tag, docker,
            _now_s(),
        )  # fmt: skip
    return Committed(made.entry["digest"], made.config, paused)


class _Made(NamedTuple):
    entry: dict[str, Any]
    config: str
    layers: list[str]
    blobs: list[Descriptor]


def _build(blobs: BlobWriter, container: Container, message: str, author: str) -> _Made:
    base = _base(blobs, container)
    newest = _epoch()

    def write(out: IO[bytes]) -> None:
        write_layer(container.upper, out, container.lowers, newest)

    layer, diff_id = blobs.put_layer(write, OCI_LAYER_GZIP)
    config = base.config
    now = _rfc3339(_now_s())
    config["created"] = now
    config["rootfs"]["diff_ids"].append(diff_id)
    entry = {
        "created": now,
        "created_by": f"fusevol commit ({' '.join(container.command)})",
        "comment": message,
        "author": author,
    }
    config["history"].append({key: value for key, value in entry.items() if value})
    if author:
        config["author"] = author
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
    return _Made(
        {**_reference(manifest_blob), "platform": _platform(config)},
        config_blob.digest,
        [one.digest for one in layers],
        [*layers, config_blob, manifest_blob],
    )


def _base(blobs: BlobWriter, container: Container) -> _Base:
    if not container.image:
        return _base_of_directory(blobs, container)
    image = open_image(container.image, container.manifest_digest)
    layers = []
    for layer in image.layers:
        blobs.copy(image.layout, layer.blob)
        layers.append(layer.blob)
    config = image.config
    history = config.get("history")
    if not isinstance(history, list):
        history = []
    missing = len(layers) - sum(not entry.get("empty_layer") for entry in history)
    config["history"] = history + [{"comment": "unknown"}] * max(missing, 0)
    annotations = {"org.opencontainers.image.base.digest": image.manifest_digest}
    if image.tag:
        annotations["org.opencontainers.image.base.name"] = image.tag
    return _Base(layers, config, annotations)


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
        "config": {"Cmd": container.command},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [
            {"created": _rfc3339(_now_s()), "created_by": "fusevol commit (root directory)"}
        ],
    }
    if here.variant:
        config["variant"] = here.variant
    return _Base([layer], config, {})


@contextmanager
def _still(container: Container, pause: bool) -> Iterator[bool]:
    """Stop the container inside the block; tell whether it stands still."""
    if not container.is_running:
        yield True
        return
    frozen = pause and cgroup.freeze(container.id, True)
    try:
        yield frozen
    finally:
        if frozen:
            cgroup.freeze(container.id, False)


def _make_layout(path: str) -> None:
    if os.path.isdir(path) and os.listdir(path) and not os.path.exists(f"{path}/index.json"):
        raise UsageError(f"{path} is no OCI image layout and not empty; choose another directory")
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise FusevolError(f"{path} cannot be made: {error.strerror}") from None


def _reference(blob: Descriptor) -> dict[str, Any]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}


def _platform(config: dict[str, Any]) -> dict[str, str]:
    return {key: config[key] for key in ("architecture", "os", "variant") if config.get(key)}


def _epoch() -> int | None:
    """Return SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/source-date-epoch)."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isdecimal():
        raise UsageError(f"SOURCE_DATE_EPOCH={text} is no number of seconds")
    return int(text)


def _now_s() -> int:
    epoch = _epoch()
    return int(time.time()) if epoch is None else epoch


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
