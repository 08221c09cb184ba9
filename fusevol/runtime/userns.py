"""A root file system whose owners are seen through a user namespace (user_namespaces(7)).

On disk a container's files keep the owners that they have in the container, so that an image can be
made of them and another range of ids used next time: layers are mounted idmapped (mount_setattr(2),
Linux 5.19 below overlayfs).
"""

import os
import re
import stat
from collections.abc import Sequence
from typing import Final

from fusevol.containers.ids import IdRange
from fusevol.errors import UnsupportedError, UsageError
from fusevol.linux import mounts
from fusevol.linux.credentials import filesystem_identity, keep_capabilities_across_fsuid
from fusevol.linux.mountinfo import is_below
from fusevol.linux.namespaces import CLONE_NEWUSER, unshare
from fusevol.mounts import registry
from fusevol.runtime.root import mount_overlay

_AUTO: Final = re.compile(r"auto(?::size=(\d+))?")
_SIZE: Final = 65536
"""What is usual: nobody and nogroup are 65534."""
_LEAST: Final = 1024
"""Podman's least, too."""


def parse_userns(word: str) -> int:
    """Return how many users a container shall have of its own; 0 for those of the host.

    Raises:
        UsageError: it means nothing.
    """
    if word == "host":
        return 0
    found = _AUTO.fullmatch(word)
    if not found:
        raise UsageError(f"invalid --userns {word}: expected host, auto or auto:size=NUMBER")
    size = int(found[1] or _SIZE)
    if not _LEAST <= size < 1 << 32:
        raise UsageError(f"invalid --userns {word}: expected a size of at least {_LEAST}")
    return size


def mount_mapped_overlay(
    lowers: Sequence[str], upper: str, work: str, target: str, ids: IdRange
) -> None:
    """Mount the root file system of a container that has a user namespace, in a namespace of ours.

    The container's root has to reach `target`, whose directories nobody else may enter: they are
    replaced by such as anybody may.

    Args:
        lowers, upper, work, target: as for `mount_overlay`; the latter three in one directory.
        ids: of the container.

    Raises:
        UnsupportedError: the kernel, or a file system, does not do that.
        FusevolError: overlayfs refuses.
    """
    own = os.path.dirname(target)
    trees = _mapped([own, *lowers], ids)
    _replace_by_open_ones(own)
    os.mkdir(target)
    places = []
    for number, tree in enumerate(trees):
        place = os.path.join(own, str(number))
        os.mkdir(place)
        fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mounts.move_mount(tree, fd)
        os.close(fd)
        os.close(tree)
        places.append(place)
    mapped = os.path.join(places[0], os.path.basename(upper))
    scratch = os.path.join(places[0], os.path.basename(work))
    keep_capabilities_across_fsuid()
    # What overlayfs makes for itself has to belong to a user that the mapping has.
    with filesystem_identity(ids.first_uid, ids.first_gid):
        mount_overlay(places[1:], mapped, scratch, target)


def _mapped(paths: Sequence[str], ids: IdRange) -> list[int]:
    """Return copies of the mounts of directories, attached nowhere, with owners mapped."""
    namespace = _namespace(ids)
    found = []
    try:
        for path in paths:
            found.append(mounts.open_tree(path))
            try:
                mounts.map_ids(found[-1], namespace)
            except OSError as error:
                raise UnsupportedError(
                    f"--userns: owners in {path} cannot be mapped: {error.strerror}; its file "
                    f"system has to support idmapped mounts"
                ) from None
    finally:
        os.close(namespace)
    return found


def _replace_by_open_ones(directory: str) -> None:
    """Have a directory and those above, from the first that others may not enter, be empty ones."""
    parts = directory.strip("/").split("/")
    above = ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))]
    closed = next(
        path for path in [*above[:-1], directory] if _is_closed(path) or path == directory
    )
    runtime = registry.runtime_directory()
    if is_below(runtime, closed) or runtime == closed:
        raise UnsupportedError(
            f"--userns: other users may not enter {closed}, in which both {directory} and "
            f"{runtime} are; move one of the two"
        )
    mounts.mount("tmpfs", closed, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, "mode=755")
    os.makedirs(directory, mode=0o755, exist_ok=True)


def _is_closed(path: str) -> bool:
    return not os.stat(path).st_mode & stat.S_IXOTH


def _namespace(ids: IdRange) -> int:
    """Return a descriptor of a user namespace with these ids."""
    waiting, held = os.pipe2(os.O_CLOEXEC)
    ready, telling = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            unshare(CLONE_NEWUSER)
            os.write(telling, b"+")
            os.close(held)
            os.read(waiting, 1)
        finally:
            os._exit(0)
    os.close(waiting)
    os.close(telling)
    try:
        if not os.read(ready, 1):
            raise UnsupportedError("--userns: this host allows no user namespaces")
        for kind, first in (("uid", ids.first_uid), ("gid", ids.first_gid)):
            with open(f"/proc/{pid}/{kind}_map", "w") as file:
                file.write(f"0 {first} {ids.size}")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(held)
        os.close(ready)
        os.waitpid(pid, 0)
