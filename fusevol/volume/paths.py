"""The path of an inode inside its volume, as text for the access log."""

from typing import Final

from fusevol.accesslog.names import encode_name
from fusevol.inodes.inode import Directory, Inode
from fusevol.inodes.table import InodeTable

_REMEMBERED: Final = 4096
"""Longest path that a directory remembers. A container may nest directories without end; what is
remembered would grow with the square of the depth."""
_LONGEST: Final = 32_768
"""Longest path in a record. Longer ones, which only nesting far beyond PATH_MAX makes, keep both
ends around SHORTENED, so that a record always fits the line that readers accept."""

SHORTENED: Final = "//...//"
"""Stands where the middle of a path was left out; no path has two slashes in a row."""


class Paths:
    """Builds paths from the links through which inodes were last seen.

    An object without a name any more keeps its last path. Directories remember theirs until some
    directory moves, so that a path costs one concatenation in the usual case.
    """

    def __init__(self, table: InodeTable) -> None:
        self._table = table

    def prefix(self, directory: Directory) -> str:
        """Return the path of `directory` with a trailing slash: "/" for the root."""
        epoch = self._table.epoch
        if directory.epoch == epoch:
            return directory.prefix
        chain = [directory]
        known = "/"
        while (parent := chain[-1].parent) is not None:
            if parent.epoch == epoch:
                known = parent.prefix
                break
            chain.append(parent)
        for link in reversed(chain):
            if link.parent is not None:
                known = f"{known}{encode_name(link.name)}/"
            if len(known) <= _REMEMBERED:
                link.prefix = known
                link.epoch = epoch
        return known

    def of(self, inode: Inode) -> str:
        """Return the path of `inode`: "/", "/a" or "/a/b"."""
        parent = inode.parent
        if parent is None:
            return "/"
        return _fitting(self.prefix(parent) + encode_name(inode.name))

    def child(self, directory: Directory, name: bytes) -> str:
        """Return the path of `name` in `directory`, whether it exists or not."""
        return _fitting(self.prefix(directory) + encode_name(name))


def _fitting(path: str) -> str:
    if len(path) <= _LONGEST:
        return path
    half = (_LONGEST - len(SHORTENED)) // 2
    return path[:half] + SHORTENED + path[-half:]
