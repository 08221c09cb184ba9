"""Writing images: blobs, and the forms that hold them.

    oci:DIR[:TAG]                     a directory in OCI image layout, which may hold other images
    oci-archive:FILE[:TAG]            one image, as a tar archive
    docker-archive:FILE[:NAME[:TAG]]  the same archive, with the name that Docker gives it

Archives hold index.json and manifest.json both, so that every loader takes either of them.
"""

import fcntl
import gzip
import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Final, NamedTuple, cast

from fusevol.container.blobs import BlobReader, Descriptor, blob_path
from fusevol.container.image import REF_NAME
from fusevol.errors import FusevolError, UsageError

_LAYOUT: Final = {"imageLayoutVersion": "1.0.0"}
_INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
_FORMS: Final = ("oci", "oci-archive", "docker-archive")


class Target(NamedTuple):
    """Where an image goes.

    Attributes:
        path: absolute path of the directory or file.
        name: tag, or name and tag, or empty.
    """

    form: str
    path: str
    name: str


def parse_target(text: str) -> Target:
    """Return what the text names; UsageError if it names nothing that can be written."""
    form, _, rest = text.partition(":")
    path, _, name = rest.partition(":")
    if form not in _FORMS or not path or "\0" in rest:
        raise UsageError(
            f"{text!r} is no place for an image; use oci:DIR[:TAG], oci-archive:FILE[:TAG] or "
            f"docker-archive:FILE[:NAME[:TAG]]"
        )
    return Target(form, os.path.abspath(path), name)


class BlobWriter:
    """Puts blobs into the layout at `directory`, which is made if it is missing."""

    def __init__(self, directory: str) -> None:
        self._layout = directory
        self._blobs = os.path.join(directory, "blobs/sha256")
        os.makedirs(self._blobs, exist_ok=True)

    def put(self, data: bytes, media_type: str) -> Descriptor:
        """Put a blob; return what refers to it."""
        with self._new() as file:
            file.write(data)
            return self._keep(file, f"sha256:{hashlib.sha256(data).hexdigest()}", media_type)

    def put_document(self, document: dict[str, Any], media_type: str) -> Descriptor:
        """Put a JSON document."""
        return self.put(json.dumps(document, separators=(",", ":")).encode(), media_type)

    def copy(self, layout: str, blob: Descriptor) -> None:
        """Put a blob of another layout, if it is not here; its digest is checked."""
        if os.path.exists(blob_path(self._layout, blob.digest)):
            return
        os.makedirs(os.path.dirname(blob_path(self._layout, blob.digest)), exist_ok=True)
        with BlobReader(layout, blob) as reader, self._new() as file:
            for data in reader:
                file.write(data)
            reader.verify()
            self._keep(file, blob.digest, blob.media_type)

    def put_layer(
        self, write: Callable[[IO[bytes]], None], media_type: str
    ) -> tuple[Descriptor, str]:
        """Put what `write` writes, compressed; return what refers to it, and its diff id."""
        with self._new() as file:
            stored = _Hashing(file)
            with gzip.GzipFile(
                filename="", mode="wb", fileobj=cast("IO[bytes]", stored), mtime=0
            ) as compressed:
                plain = _Hashing(cast("IO[bytes]", compressed))
                write(cast("IO[bytes]", plain))
            return self._keep(file, stored.digest, media_type), plain.digest

    @contextmanager
    def _new(self) -> Iterator[IO[bytes]]:
        with tempfile.NamedTemporaryFile(dir=self._blobs, prefix=".new-", delete=False) as file:
            try:
                yield cast("IO[bytes]", file)
            finally:
                if os.path.exists(file.name):
                    os.unlink(file.name)

    def _keep(self, file: IO[bytes], digest: str, media_type: str) -> Descriptor:
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        size = os.fstat(file.fileno()).st_size
        os.rename(file.name, blob_path(self._layout, digest))
        return Descriptor(digest, size, media_type)


class _Hashing:
    """A stream that hashes what is written to it."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._out.write(data)

    def flush(self) -> None:
        """Flush what is behind it."""
        self._out.flush()

    @property
    def digest(self) -> str:
        """The digest of all that was written."""
        return f"sha256:{self._hash.hexdigest()}"


def add_to_index(layout: str, entry: dict[str, Any], tag: str) -> None:
    """Have a tag of a layout refer to an image; what had the tag loses it. Atomic.

    Raises:
        FusevolError: index.json is none.
    """
    directory = os.open(layout, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        _write(layout, "oci-layout", _LAYOUT)
        index = _index(os.path.join(layout, "index.json"))
        index["manifests"] = [
            one for one in index["manifests"] if (one.get("annotations") or {}).get(REF_NAME) != tag
        ]
        index["manifests"].append({**entry, "annotations": {REF_NAME: tag}})
        _write(layout, "index.json", index)
    finally:
        os.close(directory)


def write_archive(
    path: str, layout: str, entry: dict[str, Any], blobs: list[Descriptor], config: str,
    layers: list[str], name: str, docker_name: str, when_s: int,
) -> None:  # fmt: skip
    """Write one image of a layout as an archive, atomically.

    Args:
        path: the file.
        layout: holds the blobs.
        entry: descriptor of the manifest.
        blobs: what goes in.
        config: digest of the config.
        layers: digests of the layers, base first.
        name: the tag in index.json.
        docker_name: NAME:TAG for manifest.json; empty for none.
        when_s: time of all members, in seconds since 1970.
    """
    index = _new_index()
    index["manifests"].append({**entry, **({"annotations": {REF_NAME: name}} if name else {})})
    docker = {
        "Config": _member(config),
        "RepoTags": [docker_name] if docker_name else [],
        "Layers": [_member(digest) for digest in layers],
    }
    documents = {"oci-layout": _LAYOUT, "index.json": index, "manifest.json": [docker]}
    temporary = f"{path}.new-{os.getpid()}"
    try:
        with tarfile.open(temporary, "x:") as archive:
            for digest in sorted({blob.digest for blob in blobs}):
                info = tarfile.TarInfo(_member(digest))
                source = blob_path(layout, digest)
                info.size, info.mtime = os.path.getsize(source), when_s
                with open(source, "rb") as file:
                    archive.addfile(info, file)
            for member, document in documents.items():
                data = json.dumps(document, separators=(",", ":")).encode()
                info = tarfile.TarInfo(member)
                info.size, info.mtime = len(data), when_s
                archive.addfile(info, io.BytesIO(data))
        os.rename(temporary, path)
    except OSError as error:
        raise FusevolError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


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
        raise FusevolError(f"{path} is no index of images; choose another directory")
    return index


def _write(layout: str, name: str, document: dict[str, Any]) -> None:
    path = os.path.join(layout, name)
    temporary = f"{path}.new-{os.getpid()}"
    with open(temporary, "w") as file:
        json.dump(document, file, separators=(",", ":"))
    os.rename(temporary, path)
