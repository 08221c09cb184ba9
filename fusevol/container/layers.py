"""Layers of an image, unpacked once for all containers, as directories that overlayfs can stack.

A layer is an archive from anywhere. It is unpacked by a process that has the layer's directory as
its root, so whatever names and links it holds lead nowhere else. It is put in place, by rename,
only when the digests of the blob and of the unpacked archive are what the image says.
"""

import errno
import fcntl
import gzip
import hashlib
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from typing import IO, Final, cast

from fusevol import config
from fusevol.container.blobs import BlobReader, split_digest
from fusevol.container.child import in_child
from fusevol.container.image import Image, Layer
from fusevol.container.trees import remove_tree
from fusevol.errors import FusevolError, UnsupportedError

WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"
"""image-spec, layer.md, "Whiteouts"."""

OVERLAY_OPAQUE: Final = "trusted.overlay.opaque"
_DAMAGES: Final = (
    tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, ValueError, ArithmeticError,
    RecursionError,
)  # fmt: skip
"""What is raised for an archive that is none, or that holds what makes no sense."""

_UNFINISHED: Final = "unpacking-"
_XATTR: Final = "SCHILY.xattr."
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


def unpack(image: Image) -> list[str]:
    """Return the directories of the image's layers, the topmost first; unpack what is missing.

    Raises:
        FusevolError: a layer is missing, damaged, or cannot be unpacked.
    """
    return [_unpacked(image.layout, layer) for layer in reversed(image.layers)]


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
    # The module search path leads into the layer from now on.
    sys.meta_path.clear()
    os.chroot(directory)
    os.chdir("/")
    os.umask(0)
    try:
        with tarfile.open(
            fileobj=cast("IO[bytes]", hashed), mode="r|", encoding="utf-8", errors="surrogateescape"
        ) as archive:
            _Unpacker().unpack(archive)
        if hashed.hexdigest() != digits:
            raise FusevolError(f"layer {digest} is damaged: it does not hold {layer.diff_id}")
    except _DAMAGES as error:
        raise FusevolError(f"layer {digest} cannot be unpacked: {error}") from None
    except OSError as error:
        name = os.fsdecode(error.filename or b"")
        raise FusevolError(f"layer {digest}: {name}: {error.strerror or error}") from None
    blob.verify()
    return b""


class _Unpacker:
    """Makes of the members of a layer what overlayfs wants, below the root of this process."""

    def __init__(self) -> None:
        self._directories: dict[bytes, tarfile.TarInfo] = {}

    def unpack(self, archive: tarfile.TarFile) -> None:
        for member in archive:
            path = _normal(member.name)
            parent, name = os.path.split(path)
            os.makedirs(parent or b"/", mode=0o755, exist_ok=True)
            if name == OPAQUE:
                os.setxattr(parent or b"/", OVERLAY_OPAQUE, b"y")
            elif name.startswith(WHITEOUT):
                _hide(parent, name[len(WHITEOUT) :])
            else:
                self._make(archive, member, path)
        for path, member in reversed(self._directories.items()):
            _set_times(path, member)

    def _make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: bytes) -> None:
        if member.isdir():
            if not (os.path.isdir(path) and not os.path.islink(path)):
                _remove(path)
                os.mkdir(path)
            self._directories[path] = member
        elif path == b"/":
            raise OSError(errno.ENOTDIR, "the root is no directory", path)
        else:
            _remove(path)
            self._directories.pop(path, None)
            if not _make_file(archive, member, path):
                return
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
        if not member.issym():
            os.chmod(path, member.mode & 0o7777)
        for key, value in member.pax_headers.items():
            if key.startswith(_XATTR) and not key.startswith(f"{_XATTR}trusted.overlay."):
                _set_xattr(path, key[len(_XATTR) :], value)
        if not member.isdir():
            _set_times(path, member)


def _hide(parent: bytes, name: bytes) -> None:
    """Make a whiteout, in the form that overlayfs has for it."""
    path = os.path.join(parent, name)
    if name in (b"", b".", b".."):
        raise OSError(errno.EINVAL, "a whiteout of nothing", path)
    _remove(path)
    os.mknod(path, stat.S_IFCHR | 0o000, os.makedev(0, 0))


def _make_file(archive: tarfile.TarFile, member: tarfile.TarInfo, path: bytes) -> bool:
    """Make what is no directory; return whether it is a new inode."""
    if member.islnk():
        os.link(_normal(member.linkname), path, follow_symlinks=False)
        return False
    if member.issym():
        os.symlink(_bytes(member.linkname), path)
    elif member.isreg():
        content = archive.extractfile(member)
        assert content
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
    elif member.isfifo():
        os.mkfifo(path)
    elif member.ischr() or member.isblk():
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        os.mknod(path, kind | 0o600, os.makedev(member.devmajor, member.devminor))
    else:
        raise OSError(errno.EINVAL, f"entry of unknown type {member.type!r}", path)
    return True


def _normal(name: str) -> bytes:
    """Return the name of a member as an absolute path without "..", in the layer's root."""
    return os.path.normpath(b"/" + _bytes(name)).replace(b"//", b"/")


def _bytes(text: str) -> bytes:
    """Return what the archive holds, whatever the encoding of this process."""
    return text.encode("utf-8", "surrogateescape")


def _remove(path: bytes) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        remove_tree(path)


def _set_xattr(path: bytes, name: str, value: str) -> None:
    try:
        os.setxattr(path, _bytes(name), _bytes(value), follow_symlinks=False)
    except OSError as error:
        # What this file system cannot hold, such as attributes of SELinux without it.
        if error.errno != errno.ENOTSUP:
            raise


def _set_times(path: bytes, member: tarfile.TarInfo) -> None:
    # A float cannot hold nanoseconds; the extended header can.
    ns = int(Decimal(member.pax_headers.get("mtime", str(member.mtime))) * 1_000_000_000)
    os.utime(path, ns=(ns, ns), follow_symlinks=False)
