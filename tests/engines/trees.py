"""Trees of files: what is in them, to the last bit, and overlays to change them in."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fusevol.containers.state import Container
from fusevol.linux.mounts import umount
from fusevol.runtime.root import mount_overlay

NOT_KEPT = (b"trusted.overlay.", b"user.overlay.", b"security.selinux")


class Node(NamedTuple):
    """All of a file that an image keeps."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    device: int
    content: bytes
    xattrs: dict[str, bytes]
    names: frozenset[bytes]
    """The names of this very file, if there are several."""


def snapshot(root: Path) -> dict[bytes, Node]:
    """Return what is in a tree, by path; the root itself is b"." ; sockets are left out."""
    found: dict[bytes, os.stat_result] = {b".": os.lstat(root)}
    for directory, directories, files in os.walk(os.fsencode(root)):
        for name in directories + files:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, os.fsencode(root))] = os.lstat(path)
    names: dict[tuple[int, int], set[bytes]] = {}
    for path, status in found.items():
        if not stat.S_ISDIR(status.st_mode):
            names.setdefault((status.st_dev, status.st_ino), set()).add(path)
    return {
        path: _node(os.path.join(os.fsencode(root), path), status, names)
        for path, status in found.items()
        if not stat.S_ISSOCK(status.st_mode)
    }


def _node(
    path: bytes, status: os.stat_result, names: dict[tuple[int, int], set[bytes]]
) -> Node:  # fmt: skip
    content, device = b"", 0
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = file.read()
    elif stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        device = status.st_rdev
    same = names.get((status.st_dev, status.st_ino), set())
    return Node(
        status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, device, content,
        _xattrs(path), frozenset(same) if len(same) > 1 else frozenset(),
    )  # fmt: skip


def _xattrs(path: bytes) -> dict[str, bytes]:
    found = {}
    for name in os.listxattr(path, follow_symlinks=False):
        if not os.fsencode(name).startswith(NOT_KEPT):
            found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


def differences(expected: dict[bytes, Node], got: dict[bytes, Node]) -> list[str]:
    """Return in words what differs between two trees."""
    said = [f"missing: {path!r}" for path in sorted(expected.keys() - got.keys())]
    said += [f"not expected: {path!r}" for path in sorted(got.keys() - expected.keys())]
    for path in sorted(expected.keys() & got.keys()):
        for field, one, other in zip(Node._fields, expected[path], got[path], strict=True):
            if one != other:
                said.append(f"{field} of {path!r}: {other!r} instead of {one!r}")
    return said


@contextmanager
def changing(name: str, lowers: Sequence[str], **about: str) -> Iterator[tuple[Container, Path]]:
    """A container as `fusevol run` keeps it, whose root is mounted inside the block.

    Args:
        about: `image` and `manifest_digest`, if it is of an image.
    """
    container = Container(
        id=os.urandom(32).hex(), name=name, created="2026-01-01T00:00:00Z", command=["sh"],
        lowers=list(lowers), **about,  # type: ignore[arg-type]  # only texts are left
    )  # fmt: skip
    container.create()
    mount_overlay(container.lowers, container.upper, container.work, container.merged)
    try:
        yield container, Path(container.merged)
    except BaseException:
        umount(container.merged)
        # Nobody is left to do it, and its name is for one container at a time.
        container.remove()
        raise
    umount(container.merged)


def set_xattr(path: Path, name: str, value: bytes) -> None:
    """Set an attribute of a file, or of a symbolic link itself, where it can have one."""
    try:
        os.setxattr(path, name, value, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP):
            raise
