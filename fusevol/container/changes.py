"""A directory, such as the upper one of an overlay, as a layer of an image (image-spec, layer.md).

What overlayfs writes down in its own way becomes what layers have for it: a character device 0:0
is a whiteout `.wh.NAME`, the attribute trusted.overlay.opaque an empty file `.wh..wh..opq`. The
directory is walked by descriptors, so that a container that still runs cannot lead the walk away;
and the upper directory holds nothing of what is mounted over it, volumes in particular.
"""

import errno
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from typing import IO, Final, Self

from fusevol.errors import FusevolError, UnsupportedError
from fusevol.linux.files import open_in_root

_OWN: Final = ("trusted.overlay.", "user.overlay.")
_OPAQUE: Final = ("trusted.overlay.opaque", "user.overlay.opaque")
_FOREIGN: Final = tuple(
    prefix + name for prefix in _OWN for name in ("redirect", "metacopy", "whiteouts")
)
"""Attributes that say that a directory is more than the changes that stand in it."""

_WHITEOUT: Final = ".wh."
_OPAQUE_FILE: Final = ".wh..wh..opq"
_CHUNK_BYTES: Final = 1 << 20

_TYPES: Final = {
    stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE, stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE,
}  # fmt: skip


def write_layer(
    directory: str, out: IO[bytes], lowers: Sequence[str] = (), newest_s: int | None = None
) -> None:
    """Write all that is in a directory as a tar archive, in an order that depends on names only.

    Sockets are left out. A file that changes meanwhile comes out with the length it had first.

    Args:
        directory: upper directory of an overlay, or any other.
        out: gets the archive, uncompressed.
        lowers: directories below it in the overlay.
        newest_s: times of change later than this, in seconds since 1970, become this.

    Raises:
        UnsupportedError: something in it cannot be in a layer.
        FusevolError: it cannot be read.
    """
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    lower_fds = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in lowers]
    try:
        with tarfile.open(
            fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, errors="surrogateescape"
        ) as archive:
            _Writer(archive, lower_fds, newest_s).write(root)
    except OSError as error:
        where = os.fsdecode(error.filename or b"")
        raise FusevolError(f"{directory}: {where}: {error.strerror or error}") from None
    finally:
        for fd in (root, *lower_fds):
            os.close(fd)


class _Writer:
    def __init__(
        self, archive: tarfile.TarFile, lower_fds: list[int], newest_s: int | None
    ) -> None:
        self._archive = archive
        self._lower_fds = lower_fds
        self._newest_ns = None if newest_s is None else newest_s * 1_000_000_000
        self._links: dict[tuple[int, int], str] = {}

    def write(self, root_fd: int) -> None:
        """Write the tree; a stack instead of recursion: a container can nest very deeply."""
        self._directory(root_fd, "./", "")
        stack = [(os.dup(root_fd), "", iter(_sorted(root_fd, self._is_overlay)))]
        try:
            while stack:
                fd, prefix, names = stack[-1]
                name = next(names, None)
                if name is None:
                    os.close(fd)
                    stack.pop()
                    continue
                below = self._entry(fd, prefix, name)
                if below >= 0:
                    stack.append(
                        (below, f"{prefix}{name}/", iter(_sorted(below, self._is_overlay)))
                    )
        finally:
            for fd, _prefix, _names in stack:
                os.close(fd)

    @property
    def _is_overlay(self) -> bool:
        return bool(self._lower_fds)

    def _entry(self, dir_fd: int, prefix: str, name: str) -> int:
        """Write one entry; return a descriptor of it if it is a directory, else -1."""
        path = prefix + name
        if name.startswith(_WHITEOUT):
            raise UnsupportedError(
                f"{path} cannot be in a layer, where such names stand for removed files; rename it"
            )
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        except FileNotFoundError:
            return -1  # removed meanwhile
        try:
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
                self._directory(below, f"{path}/", path)
                return below
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0 and self._is_overlay:
                self._empty(f"{prefix}{_WHITEOUT}{name}")
            elif not stat.S_ISSOCK(status.st_mode):
                self._file(dir_fd, fd, name, path, status)
        finally:
            os.close(fd)
        return -1

    def _directory(self, fd: int, name: str, path: str) -> None:
        entry = self._described(fd, os.fstat(fd), name)
        self._archive.addfile(entry)
        if self._is_overlay and _is_opaque(fd) and self._is_in_lower(path):
            self._empty(f"{path}/{_OPAQUE_FILE}" if path else _OPAQUE_FILE)

    def _file(self, dir_fd: int, fd: int, name: str, path: str, status: os.stat_result) -> None:
        entry = self._described(fd, status, path)
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and key in self._links:
            entry.type, entry.linkname, entry.pax_headers = tarfile.LNKTYPE, self._links[key], {}
            self._archive.addfile(entry)
            return
        self._links[key] = path
        if stat.S_ISLNK(status.st_mode):
            entry.linkname = os.readlink("", dir_fd=fd)
        elif stat.S_ISREG(status.st_mode):
            entry.size = status.st_size
            content = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
            with _Exactly(content, status.st_size) as file:
                self._archive.addfile(entry, file)  # type: ignore[arg-type]  # read is all it takes
            return
        else:
            entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        self._archive.addfile(entry)

    def _described(self, fd: int, status: os.stat_result, name: str) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(name)
        entry.type = _TYPES[stat.S_IFMT(status.st_mode)]
        entry.mode = stat.S_IMODE(status.st_mode)
        entry.uid, entry.gid = status.st_uid, status.st_gid
        ns = status.st_mtime_ns
        if self._newest_ns is not None:
            ns = min(ns, self._newest_ns)
        seconds, rest = divmod(ns, 1_000_000_000)
        entry.mtime = seconds
        entry.pax_headers = dict(_xattrs(fd, name))
        if rest and seconds >= 0:
            entry.pax_headers["mtime"] = f"{seconds}.{rest:09d}"
        return entry

    def _empty(self, name: str) -> None:
        self._archive.addfile(tarfile.TarInfo(name))

    def _is_in_lower(self, path: str) -> bool:
        for lower in self._lower_fds:
            try:
                os.close(open_in_root(lower, path or ".", os.O_PATH | os.O_DIRECTORY))
            except OSError:
                continue
            return True
        return False


class _Exactly:
    """A file that has just as many bytes as it is said to have."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._left = size

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        data = os.read(self._fd, size) if size else b""
        if not data:
            # It was cut meanwhile.
            data = bytes(size)
        self._left -= len(data)
        if len(data) < size:
            data += self.read(size - len(data))
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._fd)


def _sorted(fd: int, is_overlay: bool) -> list[str]:
    """Return the names in a directory: what takes away first, as readers may need it."""

    def rank(name: str) -> tuple[bool, bytes]:
        return not (is_overlay and _is_whiteout(fd, name)), os.fsencode(name)

    return sorted(os.listdir(fd), key=rank)


def _is_whiteout(fd: int, name: str) -> bool:
    try:
        status = os.lstat(name, dir_fd=fd)
    except FileNotFoundError:
        return False
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(fd: int) -> bool:
    for name in _OPAQUE:
        try:
            if os.getxattr(fd, name) == b"y":
                return True
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise
    return False


def _xattrs(fd: int, name: str) -> Iterator[tuple[str, str]]:
    """Yield the extended attributes as extended headers of the archive."""
    # By this path also what cannot be opened, such as a symbolic link.
    path = f"/proc/self/fd/{fd}"
    try:
        names = sorted(os.listxattr(path))
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return
        raise
    for key in names:
        if key.startswith(_FOREIGN):
            raise UnsupportedError(
                f"{name} has the attribute {key}: the overlay was not made by `fusevol run`, and "
                f"its changes cannot be read from it"
            )
        if not key.startswith(_OWN):
            value = os.getxattr(path, key)
            yield f"SCHILY.xattr.{key}", value.decode(errors="surrogateescape")
