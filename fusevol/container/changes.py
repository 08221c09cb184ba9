"""A directory, such as the upper one of an overlay, as a layer of an image (image-spec, layer.md).

What overlayfs writes down in its own way becomes what layers have for it: a character device 0:0
is a whiteout `.wh.NAME`, the attribute trusted.overlay.opaque an empty file `.wh..wh..opq`. The
directory is walked by descriptors, in a copy of its mount: a container that still runs cannot lead
the walk away, and nothing that is mounted below the directory is in it, volumes in particular.
"""

import errno
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from typing import IO, Final, Self

from fusevol.errors import FusevolError, UnsupportedError
from fusevol.linux.files import descriptor_path, open_beneath
from fusevol.linux.mounts import open_tree

_OVERLAY: Final = b"trusted.overlay."
_OPAQUE: Final = _OVERLAY + b"opaque"
_FOREIGN: Final = (_OVERLAY + b"redirect", _OVERLAY + b"metacopy", _OVERLAY + b"whiteout")
"""Attributes that say that a directory is more than the changes that stand in it."""

_LEFT_OUT: Final = (_OVERLAY, b"user.overlay.", b"security.selinux")
"""user.overlay.* means something to overlays of users only, and anybody can set it. A label of
SELinux belongs to this container and this host."""

_WHITEOUT: Final = b".wh."
_OPAQUE_FILE: Final = b".wh..wh..opq"
_CHUNK_BYTES: Final = 1 << 18
_SECOND_NS: Final = 1_000_000_000

_TYPES: Final = {
    stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE, stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE,
}  # fmt: skip


def write_layer(
    directory: str,
    out: IO[bytes],
    lowers: Sequence[str] | None = None,
    newest_s: int | None = None,
) -> None:
    """Write all that is in a directory as a tar archive, in an order that depends on names only.

    Sockets are left out. A file that changes meanwhile comes out with the length it had first.

    Args:
        directory: upper directory of an overlay, or any other.
        out: gets the archive, uncompressed.
        lowers: directories below it in the overlay; None for a directory without whiteouts, whose
            character devices 0:0 are left out, as overlayfs shows none.
        newest_s: times of change later than this, in seconds since 1970, become this.

    Raises:
        UnsupportedError: something in it cannot be in a layer.
        FusevolError: it cannot be read.
    """
    fds: list[int] = []
    try:
        fds.extend(open_tree(path) for path in (directory, *(lowers or ())))
        with tarfile.open(
            fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8",
            errors="surrogateescape", bufsize=_CHUNK_BYTES,
        ) as archive:  # fmt: skip
            _Writer(archive, None if lowers is None else fds[1:], newest_s).write(fds[0])
    except OSError as error:
        where = os.path.join(directory, os.fsdecode(error.filename or b""))
        raise FusevolError(f"{where} cannot be read: {error.strerror or error}") from None
    finally:
        for fd in fds:
            os.close(fd)


class _Writer:
    """Paths are bytes, relative to the root, without a slash at the end."""

    def __init__(
        self, archive: tarfile.TarFile, lower_fds: list[int] | None, newest_s: int | None
    ) -> None:
        self._archive = archive
        self._is_overlay = lower_fds is not None
        self._lower_fds = lower_fds or []
        self._newest_ns = None if newest_s is None else newest_s * _SECOND_NS
        self._links: dict[tuple[int, int], bytes] = {}

    def write(self, root_fd: int) -> None:
        """Write the tree; a stack instead of recursion: a container can nest very deeply."""
        stack: list[tuple[int, bytes, Iterator[bytes]]] = []
        try:
            below = self._directory(root_fd, b"")
            stack.append((below, b"", iter(_sorted(below))))
            while stack:
                fd, path, names = stack[-1]
                name = next(names, None)
                if name is None:
                    os.close(fd)
                    stack.pop()
                    continue
                child = os.path.join(path, name)
                below = self._entry(fd, child, name)
                if below >= 0:
                    stack.append((below, child, iter(_sorted(below))))
        finally:
            for fd, _path, _names in stack:
                os.close(fd)

    def _entry(self, dir_fd: int, path: bytes, name: bytes) -> int:
        """Write one entry; return a descriptor of it if it is a directory, else -1."""
        if name.startswith(_WHITEOUT):
            raise UnsupportedError(
                f"{os.fsdecode(path)} cannot be in a layer, where such names stand for removed "
                f"files; rename it"
            )
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        except FileNotFoundError:
            return -1  # removed meanwhile
        try:
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                return self._directory(fd, path)
            if _is_whiteout(status):
                if self._is_overlay:
                    self._empty(os.path.join(os.path.dirname(path), _WHITEOUT + name))
            elif not stat.S_ISSOCK(status.st_mode):
                self._file(fd, path, status)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        finally:
            os.close(fd)
        return -1

    def _directory(self, fd: int, path: bytes) -> int:
        """Write a directory; return a descriptor that it can be read by."""
        self._archive.addfile(self._described(fd, os.fstat(fd), path + b"/" if path else b"./"))
        if self._is_overlay and _is_opaque(fd) and self._is_in_lower(path):
            self._empty(os.path.join(path, _OPAQUE_FILE))
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)

    def _file(self, fd: int, path: bytes, status: os.stat_result) -> None:
        entry = self._described(fd, status, path)
        if status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                entry.type, entry.linkname, entry.pax_headers = tarfile.LNKTYPE, _text(first), {}
                self._archive.addfile(entry)
                return
        if stat.S_ISREG(status.st_mode):
            entry.size = status.st_size
            # The very file that was looked at: what has its name by now may be a FIFO.
            with _Exactly(os.open(descriptor_path(fd), os.O_RDONLY), status.st_size) as content:
                self._archive.addfile(entry, content)  # type: ignore[arg-type]  # it only reads
            return
        if stat.S_ISLNK(status.st_mode):
            entry.linkname = _text(os.readlink(b"", dir_fd=fd))
        else:
            entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        self._archive.addfile(entry)

    def _described(self, fd: int, status: os.stat_result, name: bytes) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(_text(name))
        entry.type = _TYPES[stat.S_IFMT(status.st_mode)]
        entry.mode = stat.S_IMODE(status.st_mode)
        entry.uid, entry.gid = status.st_uid, status.st_gid
        entry.pax_headers = dict(_xattrs(fd, name))
        ns = status.st_mtime_ns
        if self._newest_ns is not None:
            ns = min(ns, self._newest_ns)
        entry.mtime = ns // _SECOND_NS
        if ns % _SECOND_NS:
            seconds, rest = divmod(abs(ns), _SECOND_NS)
            entry.pax_headers["mtime"] = f"{'-' if ns < 0 else ''}{seconds}.{rest:09d}"
        return entry

    def _empty(self, path: bytes) -> None:
        self._archive.addfile(tarfile.TarInfo(_text(path)))

    def _is_in_lower(self, path: bytes) -> bool:
        for lower in self._lower_fds:
            try:
                os.close(open_beneath(lower, path or b".", os.O_PATH | os.O_DIRECTORY))
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue
                # Not known, such as of a path that is too long. A marker too many does no harm.
            return True
        return False


class _Exactly:
    """A file that has just as many bytes as it is said to have."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._left = size

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        data = b""
        while len(data) < size:
            # Zeros where it was cut meanwhile.
            data += os.read(self._fd, size - len(data)) or bytes(size - len(data))
        self._left -= size
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._fd)


def _sorted(fd: int) -> list[bytes]:
    """Return the names in a directory: what takes away first, as readers may need it."""
    found = []
    with os.scandir(fd) as entries:
        for entry in entries:
            is_plain = entry.is_symlink() or entry.is_file() or entry.is_dir()
            name = os.fsencode(entry.name)
            found.append((is_plain or not _is_whiteout_at(fd, name), name))
    return [name for _rank, name in sorted(found)]


def _is_whiteout_at(fd: int, name: bytes) -> bool:
    try:
        return _is_whiteout(os.lstat(name, dir_fd=fd))
    except FileNotFoundError:
        return False


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(descriptor_path(fd), _OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def _xattrs(fd: int, name: bytes) -> Iterator[tuple[str, str]]:
    """Yield the extended attributes as extended headers of the archive."""
    # By this path also those of what cannot be opened, such as a symbolic link.
    path = descriptor_path(fd)
    try:
        keys = sorted(map(os.fsencode, os.listxattr(path)))
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return
        raise
    for key in keys:
        if key in _FOREIGN:
            raise UnsupportedError(
                f"{os.fsdecode(name)} has the attribute {key.decode()}: the overlay was not made "
                f"by `fusevol run`, and its changes cannot be read from it"
            )
        if key.startswith(_LEFT_OUT):
            continue
        try:
            value = os.getxattr(path, key)
        except OSError as error:
            if error.errno == errno.ENODATA:
                continue  # removed meanwhile
            raise
        if b"=" in key or not key.isascii():
            raise UnsupportedError(
                f"{os.fsdecode(name)} has the attribute {os.fsdecode(key)!r}, a name that a layer "
                f"cannot hold; remove it with setfattr -x"
            )
        yield f"SCHILY.xattr.{key.decode()}", _text(value)


def _text(data: bytes) -> str:
    """Return bytes as the archive's encoding turns into the same bytes again."""
    return data.decode("utf-8", "surrogateescape")
