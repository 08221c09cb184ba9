"""How to undo what an operation has left that was given up: the kernel knows nothing of it.

What it did to the source stays done. Belongs to the thread of serial calls.
"""

from pyfuse3 import EntryAttributes, FileInfo

from fusevol.fuse.call_queue import Rollback
from fusevol.volume import data, directories
from fusevol.volume.volume import Volume


def rollbacks(volume: Volume) -> dict[str, Rollback]:
    """Return by the names of operations what undoes them, given their replies."""

    def forget(entry: EntryAttributes) -> None:
        volume.inodes.forget(entry.st_ino, 1)

    def forget_all(inos: list[int]) -> None:
        for ino in inos:
            volume.inodes.forget(ino, 1)

    def close_file(info: FileInfo) -> None:
        file = volume.files.get(info.fh)
        data.release(file)
        volume.remove_file(file)

    def close_created(reply: tuple[FileInfo, EntryAttributes]) -> None:
        close_file(reply[0])
        forget(reply[1])

    def close_directory(fh: int) -> None:
        directory = volume.directories.get(fh)
        directories.releasedir(directory)
        volume.remove_directory(directory)

    return {
        **dict.fromkeys(("lookup", "mknod", "mkdir", "symlink", "link"), forget),
        "open": close_file,
        "create": close_created,
        "opendir": close_directory,
        "readdir": forget_all,
    }
