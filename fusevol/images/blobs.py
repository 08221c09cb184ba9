"""Blobs of an OCI image layout: files named after the digest of their content, read with suspicion.

Reading a blob here checks its size and its digest on the way, so that what a layout
claims and what it holds cannot differ unnoticed.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any, Final, Self

import msgspec

from fusevol.errors import FusevolError, NotFoundError, NotPermittedError

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"

INDEXES: Final = frozenset((OCI_INDEX, DOCKER_INDEX))
MANIFESTS: Final = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
CONFIGS: Final = frozenset((OCI_CONFIG, DOCKER_CONFIG))

CHUNK_BYTES: Final = 1 << 20

_DIGEST: Final = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")
_DOCUMENT_MAX_BYTES: Final = 16 << 20
"""No index, manifest or config is larger; registries stop at 4 MiB for manifests."""


class Platform(msgspec.Struct):
    """Where an image runs, in the words of Go (GOOS, GOARCH)."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class BlobDescriptor(msgspec.Struct, rename="camel"):
    """What refers to a blob (image-spec, descriptor.md).

    Attributes:
        size: bytes of the blob.
    """

    digest: str
    size: int
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] | None = None


def split_digest(digest: str) -> tuple[str, str]:
    """Return algorithm and hex digits of a digest.

    Raises:
        FusevolError: it is none; in particular it could be a path to somewhere else.
    """
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise FusevolError(f"invalid digest {digest!r}: expected sha256:HEX; the image is damaged")
    return match[1] or match[3], match[2] or match[4]


def blob_path(layout: str, digest: str) -> str:
    """Return where a layout keeps the blob with this digest."""
    return os.path.join(layout, "blobs", *split_digest(digest))


class BlobReader:
    """A blob, read from beginning to end once; `verify` says whether it was the right one."""

    def __init__(self, layout: str, descriptor: BlobDescriptor) -> None:
        """Open the blob.

        Raises:
            NotFoundError: the layout does not hold it.
            FusevolError: it has another size than it should have.
        """
        self._descriptor = descriptor
        self._layout = layout
        self._hash = hashlib.new(split_digest(descriptor.digest)[0])
        self._file = _opened(layout, descriptor)
        size = os.fstat(self._file.fileno()).st_size
        if size != descriptor.size:
            self._file.close()
            raise FusevolError(
                f"blob {descriptor.digest} in {layout} has {size} bytes instead of "
                f"{descriptor.size}; copy the image again"
            )

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """Return the next bytes; none at the end."""
        data: bytes = self._file.read(size)
        self._hash.update(data)
        return data

    def __iter__(self) -> Iterator[bytes]:
        """Yield what is left."""
        while data := self.read():
            yield data

    def verify(self) -> None:
        """Read what is left, and raise FusevolError if the whole has another digest."""
        for _ in self:
            pass
        if self._hash.hexdigest() != split_digest(self._descriptor.digest)[1]:
            raise FusevolError(
                f"blob {self._descriptor.digest} in {self._layout} is damaged: its content has "
                f"another digest; copy the image again"
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _opened(layout: str, descriptor: BlobDescriptor) -> IO[bytes]:
    try:
        return open(blob_path(layout, descriptor.digest), "rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"blob {descriptor.digest} is not in {layout}; copy the image again, with all layers"
        ) from None
    except PermissionError as error:
        raise NotPermittedError(f"{error.filename} cannot be read: {error.strerror}") from None
    except OSError as error:
        raise FusevolError(f"{error.filename} cannot be read: {error.strerror}") from None


def read_document(layout: str, descriptor: BlobDescriptor) -> bytes:
    """Return the whole of a verified blob that holds JSON.

    Raises:
        NotFoundError: it is not there.
        FusevolError: it is damaged, or too large to be a document.
    """
    if not 0 <= descriptor.size <= _DOCUMENT_MAX_BYTES:
        raise FusevolError(
            f"blob {descriptor.digest} in {layout} claims {descriptor.size} bytes, too many for "
            f"its type; the image is damaged"
        )
    with BlobReader(layout, descriptor) as blob:
        data = b"".join(blob)
        blob.verify()
    return data


def decoded(data: bytes, kind: Any, what: str) -> Any:
    """Return JSON as `kind`, a struct or dict; FusevolError naming `what` if it is none."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FusevolError(f"{what} cannot be read: {error}") from None
