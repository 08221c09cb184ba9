"""What an image of a container has where a volume was."""

import os
import stat
from typing import Final

from fusevol.containers.state import Container
from fusevol.linux.files import open_in_root
from fusevol.options.binding import Binding

EMPTY_DIRECTORY: Final = "an empty directory"
EMPTY_FILE: Final = "an empty file"
COVERED: Final = "what the volume covered"


def described(container: Container, binding: Binding) -> str:
    """Return what is in the root file system of a container below a volume.

    Each layer is looked at by itself: where a link leads into another, or a layer takes away what
    another has, the answer is `COVERED`, which is true of anything.
    """
    found = set()
    for layer in (container.upper, *container.lowers):
        found.add(_in_layer(layer, binding.destination))
    found.discard(None)
    only = found.pop() if len(found) == 1 else None
    return only or COVERED


def _in_layer(layer: str, path: str) -> str | None:
    try:
        root = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_in_root(root, path, os.O_PATH)
        finally:
            os.close(root)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return COVERED
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            below = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            try:
                return COVERED if os.listdir(below) else EMPTY_DIRECTORY
            finally:
                os.close(below)
        return EMPTY_FILE if stat.S_ISREG(status.st_mode) and not status.st_size else COVERED
    finally:
        os.close(fd)
