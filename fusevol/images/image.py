"""Reading an image from an OCI image layout, a directory (image-spec, image-layout.md).

Everything is checked against its digest on the way from the tag to the config. Layers are opened by
`images.layers`.
"""

import os
import platform as host_platform
from typing import Any, Final

import msgspec

from fusevol.errors import (
    FusevolError,
    NotFoundError,
    NotPermittedError,
    UnsupportedError,
    UsageError,
)
from fusevol.images.blobs import (
    CONFIGS,
    INDEXES,
    MANIFESTS,
    OCI_MANIFEST,
    BlobDescriptor,
    Platform,
    decoded,
    read_document,
    split_digest,
)

REF_NAME: Final = "org.opencontainers.image.ref.name"
"""Annotation in index.json: the tag."""

_INDEX_MAX_BYTES: Final = 16 << 20
_NESTING_MAX: Final = 4
_UNKNOWN: Final = "unknown"
"""Operating system of what is not an image, such as attestations (BuildKit)."""

_ARCHITECTURES: Final = {
    "x86_64": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", "v8"),
    "armv8l": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "loongarch64": ("loong64", ""),
}
"""uname(2) machine -> GOARCH and variant, where they differ."""


class ImageConfig(msgspec.Struct, rename="pascal"):
    """What a container of the image runs with (image-spec, config.md, `config`).

    Attributes:
        env: NAME=VALUE each.
        user: user[:group], each a name or a number; empty is root.
        volumes: paths at which the image asks for a volume.
    """

    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    working_dir: str | None = None
    user: str | None = None
    volumes: dict[str, Any] | None = None


class Config(msgspec.Struct):
    """The config of an image, as far as its use needs it."""

    class RootFs(msgspec.Struct):
        """The layers by what they hold: digests of uncompressed tar archives, base first."""

        diff_ids: list[str]

    rootfs: RootFs
    architecture: str = ""
    os: str = ""
    config: ImageConfig | None = None


class Manifest(msgspec.Struct, rename="camel"):
    """The manifest of an image (image-spec, manifest.md); layers base first."""

    config: BlobDescriptor
    layers: list[BlobDescriptor]
    schema_version: int = 2
    media_type: str = ""


class Index(msgspec.Struct, rename="camel"):
    """A list of manifests: index.json, or a multi-platform image (image-spec, image-index.md)."""

    manifests: list[BlobDescriptor]
    schema_version: int = 2


class Layer(msgspec.Struct, frozen=True):
    """One layer: the blob that holds it, and the digest of its uncompressed tar archive."""

    blob: BlobDescriptor
    diff_id: str


class Image(msgspec.Struct, frozen=True):
    """An image of this machine's platform, in a layout.

    Attributes:
        layout: absolute path of the directory.
        tag: as asked for; empty if none was.
        manifest: whole, as it was read, and so is config.
        layers: base first.
        settings: what its containers run with.
    """

    layout: str
    tag: str
    manifest_digest: str
    manifest: dict[str, Any]
    config: dict[str, Any]
    config_digest: str
    layers: list[Layer]
    settings: ImageConfig


def parse_reference(reference: str) -> tuple[str, str]:
    """Return directory and tag (empty if there is none) of `oci:DIR[:TAG]`.

    The first colon ends the directory, as with other tools.

    Raises:
        UsageError: it is none.
    """
    transport, _, rest = reference.partition(":")
    directory, _, tag = rest.partition(":")
    if transport != "oci" or not directory or "\0" in rest:
        raise UsageError(
            f"invalid image {reference!r}; use oci:DIR[:TAG], a directory in OCI image layout "
            f"(create one with: skopeo copy docker://NAME oci:DIR:TAG)"
        )
    return os.path.abspath(directory), tag


def open_image(reference: str, manifest_digest: str = "") -> Image:
    """Return the image that `oci:DIR[:TAG]` names.

    Without a tag the layout has to hold one image. Among several platforms this machine's is taken.

    Args:
        reference: where it is.
        manifest_digest: the very manifest to open, whatever the tag refers to by now.

    Raises:
        UsageError: `reference` is none, or ambiguous.
        NotFoundError: no such layout, tag or blob.
        UnsupportedError: nothing in it that this machine could run.
        FusevolError: it is damaged.
    """
    layout, tag = parse_reference(reference)
    index = _read_index(layout)
    if manifest_digest:
        chosen = _manifest_with_digest(layout, index, manifest_digest)
    else:
        chosen = _select(layout, _tagged(layout, index, tag), reference)
    return _open_manifest(layout, tag, chosen)


def this_platform() -> Platform:
    """Return what images have to be made for to run here."""
    machine = host_platform.machine()
    architecture, variant = _ARCHITECTURES.get(machine, (machine, ""))
    return Platform("linux", architecture, variant)


def _read_index(layout: str) -> Index:
    path = os.path.join(layout, "index.json")
    try:
        with open(path, "rb") as file:
            data = file.read(_INDEX_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(_no_layout(layout)) from None
    except PermissionError as error:
        raise NotPermittedError(f"{path} cannot be read: {error.strerror}") from None
    except OSError as error:
        raise FusevolError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > _INDEX_MAX_BYTES:
        raise FusevolError(f"{path} is larger than 16 MiB; the layout is damaged")
    index: Index = decoded(data, Index, path)
    return index


def _no_layout(layout: str) -> str:
    if not os.path.exists(layout):
        return (
            f"image layout {layout} does not exist; create one with: skopeo copy docker://NAME "
            f"oci:DIR:TAG"
        )
    if os.path.isfile(layout):
        return (
            f"{layout} is a file, not an OCI image layout; convert it with: skopeo copy "
            f"oci-archive:{layout} oci:DIR:TAG (or docker-archive:)"
        )
    return (
        f"{layout} is not an OCI image layout, as it has no index.json; for a plain directory use "
        f"--rootfs"
    )


def _tagged(layout: str, index: Index, tag: str) -> list[BlobDescriptor]:
    """Return the entries of index.json that are meant."""
    names = {(entry.annotations or {}).get(REF_NAME, "") for entry in index.manifests}
    known = ", ".join(sorted(name for name in names if name)) or "none"
    if not tag:
        if len(names) > 1:
            raise UsageError(f"{layout} contains several images; add one of the tags {known}")
        return index.manifests
    found = [entry for entry in index.manifests if (entry.annotations or {}).get(REF_NAME) == tag]
    if not found:
        raise NotFoundError(f"image layout {layout} has no tag {tag}; its tags are {known}")
    return found


def _select(
    layout: str, entries: list[BlobDescriptor], what: str, depth: int = 0
) -> BlobDescriptor:
    """Return the manifest for this machine among `entries`, following nested indexes."""
    if depth > _NESTING_MAX:
        raise FusevolError(f"{what}: indexes are nested too deeply; the image is damaged")
    images = [entry for entry in entries if entry.platform is None or entry.platform.os != _UNKNOWN]
    if not images:
        raise NotFoundError(f"{what} contains no image")
    here = this_platform()
    best = max(images, key=lambda entry: _rank(entry.platform, here))
    if _rank(best.platform, here) < 0:
        offered = ", ".join(sorted({str(entry.platform) for entry in images}))
        raise UnsupportedError(f"{what} has no image for {here}, only for {offered}")
    if best.media_type in INDEXES:
        nested: Index = decoded(read_document(layout, best), Index, f"index {best.digest}")
        return _select(layout, nested.manifests, what, depth + 1)
    if best.media_type not in MANIFESTS:
        raise UnsupportedError(
            f"{what} is of type {best.media_type or 'unknown'}; only OCI and Docker schema 2 "
            f"images can be used"
        )
    return best


def _rank(platform: Platform | None, here: Platform) -> int:
    """Return how well a platform suits; the highest is best, and nothing negative runs."""
    if platform is None:
        return 1
    if (platform.os, platform.architecture) != (here.os, here.architecture):
        return -1
    if platform.variant == here.variant:
        return 100
    if not platform.variant:
        return 50
    # Variants are cumulative: what is made for v6 runs on v7 (arm), for v2 on v3 (amd64).
    wanted, given = platform.variant.lstrip("v"), (here.variant or "v1").lstrip("v")
    if wanted.isdecimal() and given.isdecimal() and int(wanted) <= int(given):
        return 2 + int(wanted)
    return -1


def _manifest_with_digest(layout: str, index: Index, digest: str) -> BlobDescriptor:
    """Return the descriptor of a manifest, also if no tag leads to it any more."""
    for entry in index.manifests:
        if entry.digest == digest:
            return entry
    algorithm, name = split_digest(digest)
    try:
        size = os.stat(os.path.join(layout, "blobs", algorithm, name)).st_size
    except OSError:
        raise NotFoundError(f"image layout {layout} no longer contains image {digest}") from None
    return BlobDescriptor(digest, size, OCI_MANIFEST)


def _open_manifest(layout: str, tag: str, chosen: BlobDescriptor) -> Image:
    what = f"manifest {chosen.digest} in {layout}"
    data = read_document(layout, chosen)
    manifest: Manifest = decoded(data, Manifest, what)
    if manifest.config.media_type not in CONFIGS:
        raise UnsupportedError(
            f"{what} is not a container image: its config is of type "
            f"{manifest.config.media_type or 'unknown'}"
        )
    config_data = read_document(layout, manifest.config)
    config: Config = decoded(config_data, Config, f"config of {what}")
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise FusevolError(
            f"{what} names {len(manifest.layers)} layers, its config {len(diff_ids)}; "
            f"the image is damaged"
        )
    for digest in (*diff_ids, *(layer.digest for layer in manifest.layers)):
        split_digest(digest)
    return Image(
        layout=layout,
        tag=tag,
        manifest_digest=chosen.digest,
        manifest=decoded(data, dict[str, Any], what),
        config=decoded(config_data, dict[str, Any], what),
        config_digest=manifest.config.digest,
        layers=[Layer(*pair) for pair in zip(manifest.layers, diff_ids, strict=True)],
        settings=config.config or ImageConfig(),
    )
