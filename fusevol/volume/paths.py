"""The path of an inode inside its volume, as text for the access log."""

from collections.abc import Iterator

from fusevol.inodes.objects import Directory, Inode
from fusevol.inodes.table import InodeTable
from fusevol.names import decode_name, encode_name
from fusevol.record.bounds import END_BYTES, LONGEST_PATH_BYTES, last_names, left_out


class Paths:
    """Builds paths from the links through which inodes were last seen.

    An object without a name any more keeps its last path. Directories remember theirs until some
    directory moves, so that a path costs one concatenation in the usual case. Those that are too
    deep for a whole path remember how long it is, and the text of an ancestor: a container may nest
    directories without end, and what is remembered would grow with the square of the depth.
    """

    def __init__(self, table: InodeTable) -> None:
        self._table = table

    def of(self, inode: Inode) -> str:
        """Return the path of `inode`: "/", "/a" or "/a/b"."""
        parent = inode.parent
        return "/" if parent is None else self.child(parent, inode.name)

    def child(self, directory: Directory, name: bytes) -> str:
        """Return the path of `name` in `directory`, whether it exists or not."""
        if directory.epoch != self._table.epoch:
            self._learn(directory)
        if directory.path_bytes + len(name) <= LONGEST_PATH_BYTES:
            return directory.prefix + encode_name(name)
        return self._shortened(directory, name)

    def _learn(self, directory: Directory) -> None:
        """Find out the path of `directory`, and with it those of its ancestors."""
        epoch = self._table.epoch
        chain = [directory]
        prefix, length = "/", 1
        while (parent := chain[-1].parent) is not None:
            if parent.epoch == epoch:
                prefix, length = parent.prefix, parent.path_bytes
                break
            chain.append(parent)
        for link in reversed(chain):
            if link.parent is not None:
                length += len(link.name) + 1
                if length <= LONGEST_PATH_BYTES:
                    prefix = f"{prefix}{encode_name(link.name)}/"
            link.prefix, link.path_bytes, link.epoch = prefix, length, epoch

    def _shortened(self, directory: Directory, name: bytes) -> str:
        """Return both ends of a path that is too long; what `path_text` makes of its names."""
        tail, end = last_names(_upwards(directory, name))
        head = _head(directory)
        begin = len(decode_name(head))
        middle = directory.path_bytes + len(name) - begin - end
        return head.removesuffix("/") + left_out(middle) + tail


def _upwards(directory: Directory, name: bytes) -> Iterator[bytes]:
    """Yield the names of a path, the last first."""
    yield name
    above: Directory | None = directory
    while above is not None:
        yield above.name
        above = above.parent


def _head(directory: Directory) -> str:
    """Return the beginning of a long path, with a trailing slash.

    The text that directories too deep for a whole path remember is cut to whole names.
    """
    kept = bytearray(b"/")
    for name in decode_name(directory.prefix)[1:].split(b"/"):
        if len(kept) + len(name) + 1 > END_BYTES:
            break
        kept += name + b"/"
    return encode_name(bytes(kept))
