"""On what a request is: from node ids to inodes, and to the paths that its record shows."""

from typing import Any, Final

from fusevol.inodes.objects import Directory, Inode
from fusevol.record.record import AccessRecord
from fusevol.volume.volume import Volume

_BY_NAME: Final = frozenset(
    ("lookup", "mknod", "mkdir", "symlink", "unlink", "rmdir", "rename", "create")
)
"""Operations on a name in a directory; their first arguments are the two."""


class Subjects:
    """Finds what requests are on, and notes its path in their records.

    Each method raises OSError, ESTALE if the node id is not known, ENOTDIR if it must be a
    directory's and is not.
    """

    def __init__(self, volume: Volume) -> None:
        self._inode = volume.inode
        self._directory = volume.directory
        self._path_of = volume.paths.of
        self._path_of_child = volume.paths.child

    def node(self, record: AccessRecord, ino: int) -> Inode:
        """Return the inode that a request is on."""
        inode = self._inode(ino)
        record.path = self._path_of(inode)
        return inode

    def directory(self, record: AccessRecord, ino: int) -> Directory:
        """Return the directory that a request is on."""
        directory = self._directory(ino)
        record.path = self._path_of(directory)
        return directory

    def child(self, record: AccessRecord, parent_ino: int, name: bytes) -> Directory:
        """Return the directory of the name that a request is on."""
        parent = self._directory(parent_ino)
        record.path = self._path_of_child(parent, name)
        return parent

    def note(self, record: AccessRecord, args: tuple[Any, ...]) -> None:
        """Note on what an operation was to be whose handler did not come to it.

        Args:
            args: those that pyfuse3 gave.
        """
        if record.op in _BY_NAME:
            self.child(record, args[0], args[1])
        else:
            self.node(record, args[0])
