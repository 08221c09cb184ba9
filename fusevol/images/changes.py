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
_KEPT_FDS: Final = 128
_NAMES_AT_ONCE: Final = 15
"""So many names of 255 bytes are a path that the kernel takes."""

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
        """Write the tree, however deep a container has nested it."""
        way = _Way(self._directory(root_fd, b""))
        try:
            while way.is_inside:
                name = way.next_name()
                if name is None:
                    way.leave()
                    continue
                below = self._entry(way.fd, way.path_of(name), name)
                if below >= 0:
                    way.enter(below, name)
        finally:
            way.close()

    def _entry(self, dir_fd: int, path: bytes, name: bytes) -> int:
        """Write one entry; return a descriptor of it if it is a directory, else -1."""
        if name.startswith(_WHITEOUT):
            raise UnsupportedError(
                f"{os.fsdecode(path)} cannot be stored in a layer, where such names mark removed "
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
        self._add(self._described(fd, os.fstat(fd), path + b"/" if path else b"./"))
        if self._is_overlay and _is_opaque(fd) and self._is_in_lower(path):
            self._empty(os.path.join(path, _OPAQUE_FILE))
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)

    def _file(self, fd: int, path: bytes, status: os.stat_result) -> None:
        entry = self._described(fd, status, path)
        if status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                entry.type, entry.linkname, entry.pax_headers = tarfile.LNKTYPE, _text(first), {}
                self._add(entry)
                return
        if stat.S_ISREG(status.st_mode):
            entry.size = status.st_size
            # The very file that was looked at: what has its name by now may be a FIFO.
            with _Exactly(os.open(descriptor_path(fd), os.O_RDONLY), status.st_size) as content:
                self._add(entry, content)
            return
        if stat.S_ISLNK(status.st_mode):
            entry.linkname = _text(os.readlink(b"", dir_fd=fd))
        else:
            entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        self._add(entry)

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

    def _add(self, entry: tarfile.TarInfo, content: "_Exactly | None" = None) -> None:
        self._archive.addfile(entry, content)  # type: ignore[arg-type]  # it only reads
        # It would keep them all.
        self._archive.members.clear()  # type: ignore[attr-defined]

    def _empty(self, path: bytes) -> None:
        self._add(tarfile.TarInfo(_text(path)))

    def _is_in_lower(self, path: bytes) -> bool:
        return any(_has_directory(lower, path) for lower in self._lower_fds)


class _Level:
    """A directory on the way, and what in it is still to come."""

    def __init__(self, fd: int, name: bytes) -> None:
        self.fd = fd
        self.name = name
        self.identity = _identity(fd)
        self.rest = iter(_sorted(fd))


class _Way:
    """The way to a directory. The last descriptors are kept; further up it goes by ".."."""

    def __init__(self, fd: int) -> None:
        """Begin at a root; own `fd`."""
        self._levels: list[_Level] = []
        self.enter(fd, b"")

    @property
    def is_inside(self) -> bool:
        """Whether the root has not been left."""
        return bool(self._levels)

    @property
    def fd(self) -> int:
        """The directory."""
        return self._levels[-1].fd

    def next_name(self) -> bytes | None:
        """Return the next name in the directory; None if there is none."""
        return next(self._levels[-1].rest, None)

    def path_of(self, name: bytes) -> bytes:
        """Return the path of something in the directory."""
        return b"/".join((*(level.name for level in self._levels[1:]), name))

    def enter(self, fd: int, name: bytes) -> None:
        """Go to a directory in this one; own `fd`."""
        try:
            self._levels.append(_Level(fd, name))
        except OSError:
            os.close(fd)
            raise
        if len(self._levels) > _KEPT_FDS and (above := self._levels[-1 - _KEPT_FDS]).fd >= 0:
            os.close(above.fd)
            above.fd = -1

    def leave(self) -> None:
        """Go back to the directory above.

        Raises:
            FusevolError: it was moved, and there is no descriptor of it any more.
        """
        left = self._levels.pop()
        try:
            if self._levels and self._levels[-1].fd < 0:
                self._reopen(self._levels[-1], left.fd)
        finally:
            os.close(left.fd)

    def _reopen(self, level: _Level, below: int) -> None:
        level.fd = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=below)
        if _identity(level.fd) != level.identity:
            raise FusevolError(
                "a directory was moved while it was read; commit with --pause, or after the "
                "container has exited"
            )

    def close(self) -> None:
        """Close what is open."""
        for level in self._levels:
            if level.fd >= 0:
                os.close(level.fd)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _has_directory(root_fd: int, path: bytes) -> bool:
    """Return whether a path of any length leads to a directory, without symbolic links."""
    names = path.split(b"/") if path else [b"."]
    fd = root_fd
    try:
        for start in range(0, len(names), _NAMES_AT_ONCE):
            part = b"/".join(names[start : start + _NAMES_AT_ONCE])
            below = open_beneath(fd, part, os.O_PATH | os.O_DIRECTORY)
            if fd != root_fd:
                os.close(fd)
            fd = below
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise
    finally:
        if fd != root_fd:
            os.close(fd)
    return True


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
                f"{os.fsdecode(name)} has the attribute {key.decode()}: the overlay was not "
                f"created by `fusevol run`, and its changes cannot be read"
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
                f"cannot store; remove it with setfattr -x"
            )
        yield f"SCHILY.xattr.{key.decode()}", _text(value)


def _text(data: bytes) -> str:
    """Return bytes as the archive's encoding turns into the same bytes again."""
    return data.decode("utf-8", "surrogateescape")
