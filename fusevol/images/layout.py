"""Writing images: blobs, and the forms that hold them.

    oci:DIR[:TAG]                     a directory in OCI image layout, which may hold other images
    oci-archive:FILE[:NAME]           one image, as a tar archive
    docker-archive:FILE[:NAME[:TAG]]  the same archive, with the name that Docker gives it

Archives hold index.json and manifest.json both, so that every loader takes either of them.
"""

import fcntl
import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, Final, NamedTuple, cast

from fusevol.errors import FusevolError, UsageError
from fusevol.images.blobs import BlobDescriptor, BlobReader, blob_path
from fusevol.images.image import REF_NAME
from fusevol.images.reference import ImageReference, full_name

_LAYOUT: Final = {"imageLayoutVersion": "1.0.0"}
_INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
_CONTAINERD_NAME: Final = "io.containerd.image.name"
_CHUNK_BYTES: Final = 1 << 18
_COMPRESSION: Final = 6
"""Of zlib, as gzip(1) and Docker have it; 9 takes twice as long and saves one percent."""


class Built(NamedTuple):
    """An image whose blobs are in a layout.

    Attributes:
        entry: descriptor of the manifest, as an index has it.
        config: digest of the configuration: the image's id with Docker and Podman.
        layers: digests, base first.
        blobs: digests of all that it consists of.
    """

    entry: dict[str, Any]
    config: str
    layers: list[str]
    blobs: list[str]

    @property
    def digest(self) -> str:
        """The digest of the manifest."""
        return str(self.entry["digest"])


def prepare_layout(path: str) -> None:
    """Make a directory an image layout, if it is none yet.

    Raises:
        UsageError: it holds other things.
        FusevolError: it cannot be written.
    """
    try:
        with _writing(path):
            os.makedirs(path, exist_ok=True)
    except FusevolError:
        if os.path.exists(path) and not os.path.isdir(path):
            raise UsageError(f"{path} is not a directory; oci-archive:FILE writes a file") from None
        raise
    with _locked(path):
        if os.path.exists(os.path.join(path, "oci-layout")):
            return
        if os.listdir(path) and not os.path.exists(os.path.join(path, "index.json")):
            raise UsageError(
                f"{path} is neither an OCI image layout nor empty; choose another directory"
            )
        _replace(path, "oci-layout", _LAYOUT)


@contextmanager
def _locked(layout: str) -> Iterator[None]:
    """Have a layout's documents to oneself inside the block."""
    with _writing(layout):
        directory = os.open(layout, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield
        finally:
            os.close(directory)


class BlobWriter:
    """Puts blobs into the layout at `directory`, which is made if it is missing.

    All methods raise FusevolError if that fails.
    """

    def __init__(self, directory: str) -> None:
        self._layout = directory
        with _writing(directory):
            os.makedirs(os.path.join(directory, "blobs/sha256"), exist_ok=True)

    def put(self, data: bytes, media_type: str) -> BlobDescriptor:
        """Put a blob; return what refers to it."""
        with self._new() as file:
            file.write(data)
            return self._keep(file, f"sha256:{hashlib.sha256(data).hexdigest()}", media_type)

    def put_document(self, document: dict[str, Any], media_type: str) -> BlobDescriptor:
        """Put a JSON document."""
        return self.put(_json(document), media_type)

    def copy(self, layout: str, blob: BlobDescriptor) -> None:
        """Put a blob of another layout, if it is not here; its digest is checked in any case."""
        with BlobReader(layout, blob) as reader:
            if self._has(blob):
                reader.verify()
                return
            with self._new() as file:
                for data in reader:
                    file.write(data)
                reader.verify()
                self._keep(file, blob.digest, blob.media_type)

    def _has(self, blob: BlobDescriptor) -> bool:
        path = blob_path(self._layout, blob.digest)
        return os.path.exists(path) and os.path.getsize(path) == blob.size

    def put_layer(
        self, write: Callable[[IO[bytes]], None], media_type: str
    ) -> tuple[BlobDescriptor, str]:
        """Put what `write` writes, compressed; return what refers to it, and its diff id."""
        with self._new() as file:
            stored = _Hashing(file, self._layout)
            with gzip.GzipFile(
                filename="", mode="wb", fileobj=cast("IO[bytes]", stored), mtime=0,
                compresslevel=_COMPRESSION,
            ) as compressed:  # fmt: skip
                plain = _Hashing(cast("IO[bytes]", compressed), self._layout)
                write(cast("IO[bytes]", plain))
            return self._keep(file, stored.digest, media_type), plain.digest

    @contextmanager
    def _new(self) -> Iterator[IO[bytes]]:
        # Not among the blobs, where tools take every name for a digest.
        with _writing(self._layout), tempfile.NamedTemporaryFile(
            dir=self._layout, prefix=".new-", delete=False
        ) as file:  # fmt: skip
            try:
                yield cast("IO[bytes]", file)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(file.name)

    def _keep(self, file: IO[bytes], digest: str, media_type: str) -> BlobDescriptor:
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        size = os.fstat(file.fileno()).st_size
        path = blob_path(self._layout, digest)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.rename(file.name, path)
        return BlobDescriptor(digest, size, media_type)


class _Hashing:
    """A stream that hashes what is written to it."""

    def __init__(self, out: IO[bytes], what: str) -> None:
        self._out = out
        self._what = what
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        # Distinguished here from failures of the writer, which reads, too.
        with _writing(self._what):
            return self._out.write(data)

    def flush(self) -> None:
        """Flush what is behind it."""
        with _writing(self._what):
            self._out.flush()

    @property
    def digest(self) -> str:
        """The digest of all that was written."""
        return f"sha256:{self._hash.hexdigest()}"


def add_to_index(layout: str, entry: dict[str, Any], tag: str) -> None:
    """Have a tag of a layout refer to an image; what had the tag loses it. Atomic.

    Raises:
        FusevolError: index.json is none, or cannot be written.
    """
    with _locked(layout):
        index = _index(os.path.join(layout, "index.json"))
        index["manifests"] = [one for one in index["manifests"] if _tag(one) != tag]
        index["manifests"].append({**entry, "annotations": {REF_NAME: tag}})
        _replace(layout, "index.json", index)


def write_archive(target: ImageReference, layout: str, image: Built, when_s: int) -> None:
    """Write one image of a layout as an archive, atomically, or to standard output.

    Args:
        target: the file, and the image's names.
        layout: holds the blobs.
        image: what goes in.
        when_s: time of all members, in seconds since 1970.

    Raises:
        FusevolError: it cannot be written.
    """
    if target.path == "-":
        with _writing("standard output"):
            _write_archive(sys.stdout.buffer, target, layout, image, when_s)
            sys.stdout.buffer.flush()
        return
    temporary = f"{target.path}.new-{os.getpid()}"
    with _writing(target.path):
        try:
            with open(temporary, "xb") as out:
                _write_archive(out, target, layout, image, when_s)
            os.rename(temporary, target.path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def _write_archive(
    out: IO[bytes], target: ImageReference, layout: str, image: Built, when_s: int
) -> None:  # fmt: skip
    index = _new_index()
    index["manifests"].append(image.entry)
    if target.tag:
        names = {REF_NAME: target.tag}
        if target.docker_name:
            names[_CONTAINERD_NAME] = full_name(target.docker_name)
        index["manifests"] = [{**image.entry, "annotations": names}]
    docker = {
        "Config": _member(image.config),
        "RepoTags": [target.docker_name] if target.docker_name else [],
        "Layers": [_member(digest) for digest in image.layers],
    }
    documents = {"oci-layout": _LAYOUT, "index.json": index, "manifest.json": [docker]}
    with tarfile.open(fileobj=out, mode="w|", bufsize=_CHUNK_BYTES) as archive:
        for digest in sorted(set(image.blobs)):
            with open(blob_path(layout, digest), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                _add(archive, _member(digest), size, when_s, file)
        for member, document in documents.items():
            data = _json(document)
            _add(archive, member, len(data), when_s, io.BytesIO(data))


def _add(archive: tarfile.TarFile, name: str, size: int, when_s: int, file: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, when_s
    archive.addfile(info, file)


def _member(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _new_index() -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": []}


def _index(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            index = json.load(file)
    except FileNotFoundError:
        return _new_index()
    except ValueError as error:
        raise FusevolError(f"{path} cannot be read: {error}") from None
    if not isinstance(index, dict) or not isinstance(index.get("manifests"), list):
        raise FusevolError(f"{path} is not an index of images; choose another directory")
    return index


def _tag(entry: Any) -> Any:
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    return annotations.get(REF_NAME) if isinstance(annotations, dict) else None


def _replace(layout: str, name: str, document: dict[str, Any]) -> None:
    path = os.path.join(layout, name)
    temporary = f"{path}.new-{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(_json(document))
        file.flush()
        # The index names images of others, too.
        os.fsync(file.fileno())
    os.rename(temporary, path)


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


@contextmanager
def _writing(what: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FusevolError(f"{what} cannot be written: {error.strerror or error}") from None
