"""Layers of an image, unpacked once for all containers, as directories that overlayfs can stack.

A layer is an archive from anywhere. It is unpacked by a process that has the layer's directory as
its root, so whatever names and links it holds lead nowhere else. It is put in place, by rename,
only when the digests of the blob and of the unpacked archive are what the image says.
"""

import fcntl
import gzip
import hashlib
import os
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import IO, Final, Self, cast

from fusevol.containers.trees import remove_tree
from fusevol.errors import FusevolError, UnsupportedError
from fusevol.images.blobs import BlobReader, split_digest
from fusevol.images.image import Image, Layer
from fusevol.images.unpacking import Unpacker
from fusevol.linux.child import in_child
from fusevol.names import encode_name
from fusevol.options import config
from fusevol.terminal import printable

_DAMAGES: Final = (
    tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, ValueError, ArithmeticError,
    RecursionError,
)  # fmt: skip
"""What is raised for an archive that is none, or that holds what makes no sense."""

_UNFINISHED: Final = "unpacking-"
_SHOWN: Final = 1000
"""Bytes of a path in a message."""
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


def unpack(image: Image) -> list[str]:
    """Return the directories of the image's layers, the topmost first; unpack what is missing.

    An image of no layers has one empty directory.

    Raises:
        FusevolError: a layer is missing, damaged, or cannot be unpacked.
    """
    return [_unpacked(image.layout, layer) for layer in reversed(image.layers)] or [_nothing()]


def _nothing() -> str:
    path = os.path.join(layers_directory(), "none")
    with suppress(FileExistsError):
        os.mkdir(path, 0o755)
    return path


def layers_directory() -> str:
    """Return where layers are kept, made with mode 0700 if it is missing."""
    path = os.path.join(config.state_directory(), "layers")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def _unpacked(layout: str, layer: Layer) -> str:
    algorithm, digits = split_digest(layer.diff_id)
    directory = layers_directory()
    path = os.path.join(directory, algorithm, digits)
    if os.path.isdir(path):
        return path
    with _locked(directory):
        if os.path.isdir(path):
            return path
        _remove_unfinished(directory)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=_UNFINISHED, dir=directory)
        try:
            os.chmod(temporary, 0o755)
            with BlobReader(layout, layer.blob) as blob:
                in_child(partial(_unpack_here, blob, layer, temporary))
            os.rename(temporary, path)
        except BaseException:
            remove_tree(temporary)
            raise
    return path


def _remove_unfinished(directory: str) -> None:
    """Remove what others could not, that were killed while they unpacked."""
    for name in os.listdir(directory):
        if name.startswith(_UNFINISHED):
            remove_tree(os.path.join(directory, name))


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Let one process at a time unpack."""
    fd = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class _Member(tarfile.TarInfo):
    """A member; what is none is an error, not the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from None


class _Padded:
    """An archive that is whole records long, whatever the stream is that it is read from.

    Some archives end with the last byte of the last file, or are empty.
    """

    def __init__(self, stream: "_Hashed") -> None:
        self._stream = stream
        self._size = 0
        """Of the stream, as far as it was read."""
        self._padding: int | None = None
        """How much is still to be added; None as long as the stream has not ended."""

    def read(self, size: int) -> bytes:
        data = b"" if self._padding is not None else self._stream.read(size)
        self._size += len(data)
        if data:
            return data
        if self._padding is None:
            self._padding = -self._size % tarfile.BLOCKSIZE if self._size else 2 * tarfile.BLOCKSIZE
        data = bytes(min(size, self._padding))
        self._padding -= len(data)
        return data

    def check_end(self, archive: tarfile.TarFile, last: tarfile.TarInfo | None) -> None:
        """Raise ReadError if padding became part of a file."""
        if last is None or not last.isreg():
            return
        end = archive.offset if last.issparse() else last.offset_data + last.size
        if self._size < end:
            raise tarfile.ReadError(f"it ends within {last.name}")


class _Hashed:
    """A stream whose bytes are hashed as they are read."""

    def __init__(self, stream: IO[bytes], algorithm: str) -> None:
        self._stream = stream
        self._hash = hashlib.new(algorithm)

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        return data

    def hexdigest(self) -> str:
        while self.read(1 << 20):
            pass
        return self._hash.hexdigest()


class _Replayed:
    """A stream of which a few bytes were read already."""

    def __init__(self, head: bytes, blob: BlobReader) -> None:
        self._head = head
        self._blob = blob

    def read(self, size: int = -1) -> bytes:
        if self._head:
            head, self._head = self._head[:size], self._head[size:] if size >= 0 else b""
            return head
        return self._blob.read(size if size >= 0 else 1 << 20)


def _unpack_here(blob: BlobReader, layer: Layer, directory: str) -> bytes:
    """Unpack with `directory` as the root of this process, a child; there is nothing to return."""
    digest = layer.blob.digest
    algorithm, digits = split_digest(layer.diff_id)
    head = blob.read(4)
    raw = cast("IO[bytes]", _Replayed(head, blob))
    if head.startswith(_ZSTD):
        raise UnsupportedError(
            f"layer {digest} is compressed by zstd, which fusevol cannot unpack; convert the image "
            f"with: skopeo copy --dest-compress-format gzip"
        )
    stream = gzip.GzipFile(fileobj=raw) if head.startswith(_GZIP) else raw
    hashed = _Hashed(cast("IO[bytes]", stream), algorithm)
    padded = _Padded(hashed)
    # The module search path leads into the layer from now on.
    sys.meta_path.clear()
    os.chroot(directory)
    os.chdir("/")
    os.umask(0)
    try:
        with tarfile.open(
            fileobj=cast("IO[bytes]", padded), mode="r|", encoding="utf-8",
            errors="surrogateescape", tarinfo=_Member,
        ) as archive:  # fmt: skip
            padded.check_end(archive, Unpacker().unpack(archive))
        if hashed.hexdigest() != digits:
            raise FusevolError(f"layer {digest} is damaged: its content is not {layer.diff_id}")
    except _DAMAGES as error:
        raise FusevolError(f"layer {digest} cannot be unpacked: {error}") from None
    except OSError as error:
        name = printable(encode_name((error.filename or b"")[-_SHOWN:]))
        raise FusevolError(f"layer {digest}: {name}: {error.strerror or error}") from None
    blob.verify()
    return b""
