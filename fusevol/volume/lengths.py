"""How long a file is for the kernel, which decides where it places an append.

The kernel learns a length by the reply to a request, and does not learn what the host does to the
file. Where an append is to go follows from the length that it knew when it sent the write: one that
begins there is an append, and goes to the end that the file has by then; one that begins elsewhere
is meant for that place (`is_append`).

Which length that is is uncertain while clients race: between a reply and the moment when
its caller goes on there come requests of others, and attributes that were asked for before
something changed the file are passed over (fuse_change_attributes, fs/fuse/inode.c). So besides the
likely length the others are kept that are possible, and an append that comes in shows which it was.
"""

import mmap
import os
from typing import Final

from fusevol.inodes.objects import NO_SIZE, Inode, OpenFile
from fusevol.volume.volume import Volume

_MOST: Final = 8


def is_append(file: OpenFile, offset: int, length: int) -> bool:
    """Return whether a write of `length` bytes at `offset` is to go to the end of the file.

    O_APPEND of the handle does not show it: mapped memory is written back through whatever handle
    there is, and O_APPEND may have been switched off (fcntl(2)).
    """
    if not file.flags & os.O_APPEND:
        return False
    inode = file.inode
    if offset == inode.size or inode.size == NO_SIZE:
        return True
    return offset in inode.other_sizes and not _may_be_mapped(inode, offset, length)


def _may_be_mapped(inode: Inode, offset: int, length: int) -> bool:
    """Return whether a write can be one of mapped pages, which end at the end of the file."""
    if not offset or offset % mmap.PAGESIZE:
        return False
    end = offset + length
    return not length % mmap.PAGESIZE or end == inode.size or end in inode.other_sizes


def told(volume: Volume, inode: Inode, size: int) -> None:
    """Note that a reply has the attributes of `inode`, which the kernel may ignore."""
    before = inode.size
    if size != before:
        others = (before, *inode.other_sizes) if before != NO_SIZE else ()
        volume.set_sizes(inode, size, others[:_MOST])


def truncated(volume: Volume, inode: Inode, size: int) -> None:
    """Note that a reply makes `size` the length of `inode`; meanwhile nobody else writes to it."""
    volume.set_sizes(inode, size)


def emptied(volume: Volume, inode: Inode) -> None:
    """Note that an open empties `inode` (O_TRUNC).

    The kernel sets the length to 0 when the opener goes on, and again a little later
    (handle_truncate, fs/namei.c); others may append before and in between. What comes by the
    opened file shows that both is over.
    """
    others = [size for size in (inode.size, *inode.other_sizes) if size and size != NO_SIZE]
    volume.set_sizes(inode, 0, (0, *others)[:_MOST])


def appended(volume: Volume, file: OpenFile, begin: int, end: int) -> None:
    """Note an append for which the kernel knew the length `begin`.

    Whatever else makes the file empty or longer for the kernel may come after it.
    """
    inode = file.inode
    if begin == inode.size and not inode.other_sizes:
        volume.set_sizes(inode, end)
        return
    sizes = [inode.size, *inode.other_sizes]
    if begin in sizes:
        sizes.remove(begin)
    least = end if file.flags & os.O_TRUNC else -1
    others = (size for size in sizes if least < size and (not size or end < size < NO_SIZE))
    volume.set_sizes(inode, end, tuple(others))


def closed(volume: Volume, file: OpenFile) -> None:
    """Note that `file`, which was opened with O_TRUNC, is closed."""
    inode = file.inode
    if inode.size == 0 and inode.other_sizes:
        volume.set_sizes(inode, 0, tuple(size for size in inode.other_sizes if size))


def written(volume: Volume, inode: Inode, end: int) -> None:
    """Note that `inode` was written up to `end`, which makes it longer if it was shorter."""
    size = max(inode.size, end)
    others = {max(other, end) for other in inode.other_sizes}
    volume.set_sizes(inode, size, tuple(others - {size}))
