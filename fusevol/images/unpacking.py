"""Making a directory for overlayfs of the archive of one layer (image-spec, layer.md).

Works in a process that has the directory as its root and its working directory, and acts on one
name at a time, in the directory that the process has gone to. So no link leads out, and no path is
too long, however deep a layer is.

Whiteouts are about the layers below. What the layer itself holds stays, in whichever order the two
come, and hides what is below it as a whole: a directory that takes the place of something else is
opaque. No whiteout stands in an opaque directory: overlayfs would list it there as a file.
"""

import errno
import os
import shutil
import stat
import tarfile
from decimal import Decimal
from typing import Final, NamedTuple

from fusevol.containers.trees import remove_tree

WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"
"""image-spec, layer.md, "Whiteouts"."""

OVERLAY_OPAQUE: Final = "trusted.overlay.opaque"

_METADATA: Final = b".wh..wh."
"""What AUFS keeps for itself (image-spec, layer.md)."""

_XATTR: Final = "SCHILY.xattr."
_OF_OVERLAYS: Final = f"{_XATTR}trusted.overlay."
_CHUNK_BYTES: Final = 1 << 20

Names = tuple[bytes, ...]
"""A path, as its names from the root on."""


_NOWHERE: Final[Names] = (b"/",)
"""No way goes on from here."""


class _Directory(NamedTuple):
    ino: int
    mtime_ns: int


class Unpacker:
    """Unpacks one archive. For a process of its own, whose root and working directory change."""

    def __init__(self) -> None:
        self._here: Names = ()
        """Where the process is."""
        self._directories: dict[Names, _Directory] = {}
        """Those that the archive has an entry for."""
        self._ways: set[int] = set()
        """Directories that hold nothing but whiteouts, and have no entry, by inode number."""

    def unpack(self, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        """Unpack all of it; return the last member.

        Raises:
            OSError: something cannot be made; `filename` is its path.
            tarfile.TarError, ValueError, ArithmeticError: the archive is damaged.
        """
        self._return()
        member = None
        for member in archive:
            # It would keep them all.
            archive.members.clear()  # type: ignore[attr-defined]
            path = _names(_bytes(member.name))
            try:
                self._take(archive, member, path)
            except OSError as error:
                raise OSError(error.errno, error.strerror, b"/" + b"/".join(path)) from None
        for path, directory in self._directories.items():
            self._set_time(path, directory)
        return member

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: Names) -> None:
        parent, name = path[:-1], path[-1] if path else b"."
        if any(one.startswith(_METADATA) for one in path) and name != OPAQUE:
            return
        if name.startswith(WHITEOUT):
            if self._find(parent):
                self._hide(name)
            return
        self._go_to(parent)
        if member.isdir():
            self._make_directory(name)
        elif path:
            self._remove(name)
            if not self._make_file(archive, member, parent, name):
                return
        else:
            raise OSError(errno.ENOTDIR, "the root is not a directory")
        _describe(name, member)
        if member.isdir():
            ino = os.lstat(name).st_ino
            self._ways.discard(ino)
            self._directories[path] = _Directory(ino, _mtime_ns(member))
        else:
            ns = _mtime_ns(member)
            os.utime(name, ns=(ns, ns), follow_symlinks=False)

    def _return(self) -> None:
        """Go to the root."""
        os.chdir("/")
        self._here = ()

    def _go_to(self, directory: Names) -> None:
        """Go to a directory, through symbolic links of the layer; make what is missing."""
        for name in self._rest_of_way(directory):
            try:
                os.chdir(name)
            except FileNotFoundError:
                # A link that leads nowhere has this name, if it is taken.
                os.mkdir(name, 0o755)
                os.chdir(name)
            except NotADirectoryError:
                if not _is_whiteout(os.lstat(name)):
                    raise
                self._make_directory(name)
                os.chdir(name)
            if self._ways:
                self._ways.discard(os.stat(".").st_ino)
            self._here = (*self._here, name)

    def _find(self, directory: Names) -> bool:
        """Go to a directory in which something of the layers below is hidden, if there is a need.

        There is none where the layer has no directory, or an opaque one: that hides all there was.
        In particular the place of a directory that became a symbolic link is not where the link
        leads.
        """
        self._return()
        for name in directory:
            if _is_opaque():
                return False
            try:
                status = os.lstat(name)
            except FileNotFoundError:
                os.mkdir(name, 0o755)
                self._ways.add(os.lstat(name).st_ino)
            else:
                if not stat.S_ISDIR(status.st_mode):
                    return False
            os.chdir(name)
            self._here = (*self._here, name)
        return not _is_opaque()

    def _rest_of_way(self, directory: Names) -> Names:
        """Return which names lead from here to a directory; go to the root if none would."""
        here = len(self._here)
        if self._ways or directory[:here] != self._here:
            self._return()
            return directory
        return directory[here:]

    def _hide(self, name: bytes) -> None:
        """Make a whiteout, or a directory opaque, in the form that overlayfs has for it."""
        if name == OPAQUE:
            self._make_opaque(b".")
            return
        hidden = name.removeprefix(WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise OSError(errno.EINVAL, "a whiteout without a name")
        try:
            status = os.lstat(hidden)
        except FileNotFoundError:
            pass
        else:
            if not stat.S_ISDIR(status.st_mode):
                return
            if status.st_ino not in self._ways:
                self._make_opaque(hidden)
                return
            self._ways.discard(status.st_ino)
            self._remove(hidden)
        os.mknod(hidden, stat.S_IFCHR | 0o000, os.makedev(0, 0))

    def _make_directory(self, name: bytes) -> None:
        """Make a directory that hides what is below it if it takes the place of something."""
        try:
            if stat.S_ISDIR(os.lstat(name).st_mode):
                return
        except FileNotFoundError:
            os.mkdir(name)
            return
        self._remove(name)
        os.mkdir(name)
        self._make_opaque(name)

    def _make_opaque(self, directory: bytes) -> None:
        """Have a directory hide all that is below it, and need no whiteouts any more."""
        os.setxattr(directory, OVERLAY_OPAQUE, b"y")
        back = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.chdir(directory)
            self._remove_whiteouts()
        finally:
            os.fchdir(back)
            os.close(back)

    def _remove_whiteouts(self) -> None:
        """Remove whiteouts, and ways to them, below where the process is; move it about there."""
        levels = [(b".", iter(os.listdir(b".")))]
        while levels:
            name = next(levels[-1][1], None)
            if name is None:
                left, _ = levels.pop()
                if levels:
                    os.chdir("..")
                    self._remove_way(left)
                continue
            status = os.lstat(name)
            if stat.S_ISDIR(status.st_mode):
                levels.append((name, iter(os.listdir(name))))
                os.chdir(name)
            elif _is_whiteout(status):
                os.unlink(name)

    def _remove_way(self, name: bytes) -> None:
        ino = os.lstat(name).st_ino
        if ino in self._ways:
            self._ways.discard(ino)
            os.rmdir(name)

    def _make_file(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: Names, name: bytes
    ) -> bool:
        """Make what is not a directory; return whether it is a new inode."""
        if member.islnk():
            self._link(_names(_bytes(member.linkname)), parent, name)
            return False
        if member.issym():
            os.symlink(_bytes(member.linkname), name)
        elif member.isreg():
            content = archive.extractfile(member)
            assert content
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with open(fd, "wb") as file:
                shutil.copyfileobj(content, file, _CHUNK_BYTES)
        elif member.isfifo():
            os.mkfifo(name)
        elif member.ischr() or member.isblk():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            os.mknod(name, kind | 0o600, os.makedev(member.devmajor, member.devminor))
        else:
            raise OSError(errno.EINVAL, f"entry of unknown type {member.type!r}")
        return True

    def _link(self, target: Names, parent: Names, name: bytes) -> None:
        if not target:
            raise OSError(errno.EPERM, "a hard link to the root")
        self._go_to(target[:-1])
        source = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._go_to(parent)
            os.link(target[-1], name, src_dir_fd=source, follow_symlinks=False)
        finally:
            os.close(source)

    def _remove(self, name: bytes) -> None:
        """Remove what has a name, if anything has, with all that is in it."""
        try:
            status = os.lstat(name)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            remove_tree(name)
            return
        os.unlink(name)
        if stat.S_ISLNK(status.st_mode):
            # The way here may have been through it.
            self._here = _NOWHERE

    def _set_time(self, path: Names, directory: _Directory) -> None:
        """Set the time of a directory that has all its entries, if it is there still."""
        try:
            for name in self._rest_of_way(path):
                os.chdir(name)
                self._here = (*self._here, name)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return
            raise
        if os.stat(".").st_ino == directory.ino:
            os.utime(".", ns=(directory.mtime_ns, directory.mtime_ns))


def _names(path: bytes) -> Names:
    """Return the names of a path in the layer's root, which has no way above it."""
    return tuple(filter(None, os.path.normpath(b"/" + path).split(b"/")))


def _bytes(text: str) -> bytes:
    """Return what the archive holds, whatever the encoding of this process."""
    return text.encode("utf-8", "surrogateescape")


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque() -> bool:
    try:
        return os.getxattr(b".", OVERLAY_OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def _describe(name: bytes, member: tarfile.TarInfo) -> None:
    """Give owner, mode and extended attributes to what was made."""
    os.chown(name, member.uid, member.gid, follow_symlinks=False)
    if not member.issym():
        os.chmod(name, member.mode & 0o7777)
    for key, value in member.pax_headers.items():
        if key.startswith(_XATTR) and not key.startswith(_OF_OVERLAYS):
            _set_xattr(name, key[len(_XATTR) :], value)


def _set_xattr(path: bytes, name: str, value: str) -> None:
    try:
        os.setxattr(path, _bytes(name), _bytes(value), follow_symlinks=False)
    except OSError as error:
        # What this file system cannot hold, such as attributes of SELinux without it.
        if error.errno != errno.ENOTSUP:
            raise


def _mtime_ns(member: tarfile.TarInfo) -> int:
    # A float cannot hold nanoseconds; the extended header can.
    return int(Decimal(member.pax_headers.get("mtime", str(member.mtime))) * 1_000_000_000)
