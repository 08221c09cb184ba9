"""Which libfuse this process has loaded."""

import ctypes
from typing import Final

_MAPS: Final = "/proc/self/maps"


def loaded_libfuse() -> tuple[str, str] | None:
    """Return path and version of the libfuse that is loaded; None if there is none."""
    with open(_MAPS, encoding="utf-8", errors="surrogateescape") as file:
        paths = {line.split(None, 5)[5].rstrip("\n") for line in file if "libfuse3.so" in line}
    for path in sorted(paths):
        pkgversion = ctypes.CDLL(path).fuse_pkgversion
        pkgversion.argtypes = ()
        pkgversion.restype = ctypes.c_char_p
        return path, pkgversion().decode()
    return None
