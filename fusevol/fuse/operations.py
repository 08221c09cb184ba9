"""What pyfuse3 calls: an answer for each FUSE operation, put together when serving begins.

Handlers translate: node ids and handle numbers to inodes, results to pyfuse3's types, and arguments
into the access record, before the call, so that a failed operation shows what was asked for. They
are in `node_names`, `node_attributes`, `node_opening`, `open_files` and `open_directories`. What an
operation means is in `fusevol.volume`; timing, errors and the log are in `middleware`.
"""

import errno

import pyfuse3

from fusevol.fuse.message import STATFS, with_node_id
from fusevol.fuse.middleware import by_caller, by_handle
from fusevol.fuse.node_attributes import NodeAttributes
from fusevol.fuse.node_names import NodeNames
from fusevol.fuse.node_opening import NodeOpening
from fusevol.fuse.open_directories import OpenDirectories
from fusevol.fuse.open_files import OpenFiles
from fusevol.fuse.replies import Replies
from fusevol.fuse.serving import Serving
from fusevol.record.record import OPERATIONS


def operations(serving: Serving, *, acl: bool, flushes: bool) -> pyfuse3.Operations:
    """Return what serves one mount.

    pyfuse3 looks each operation up on an object, by its name. The class of that object is made
    here, of the very functions that answer.

    Args:
        serving: the mount.
        acl: the source has POSIX ACLs.
        flushes: each close(2) is asked for, not only the last one of an open file.
    """
    replies = Replies(serving)
    names = NodeNames(serving, replies)
    attributes = NodeAttributes(serving, replies)
    opening = NodeOpening(serving, replies)
    files = OpenFiles(serving)
    directories = OpenDirectories(serving, replies)
    answers = (
        by_caller(serving, names.lookup),
        by_caller(serving, names.mknod, once=True),
        by_caller(serving, names.mkdir, once=True),
        by_caller(serving, names.symlink, once=True),
        by_caller(serving, names.link, once=True),
        by_caller(serving, names.readlink),
        by_caller(serving, names.unlink, once=True),
        by_caller(serving, names.rmdir, once=True),
        by_caller(serving, names.rename, once=True),
        by_caller(serving, attributes.getattr),
        by_caller(serving, attributes.setattr),
        with_node_id(STATFS, by_caller(serving, attributes.statfs)),
        by_caller(serving, attributes.getxattr),
        by_caller(serving, attributes.setxattr),
        by_caller(serving, attributes.listxattr),
        by_caller(serving, attributes.removexattr, once=True),
        by_caller(serving, opening.open, once=True),
        by_caller(serving, opening.create, once=True),
        by_caller(serving, opening.opendir, once=True),
        by_handle(serving, files.read, after=files.count_read),
        by_handle(serving, files.write, once=True, after=files.count_written),
        by_handle(serving, files.flush) if flushes else flush,
        by_handle(serving, files.fsync),
        by_handle(serving, files.release, once=True, after=files.forget),
        by_handle(serving, directories.readdir),
        by_handle(serving, directories.fsyncdir),
        by_handle(serving, directories.releasedir, once=True, after=directories.forget),
    )
    members: dict[str, object] = {answer.__name__: staticmethod(answer) for answer in answers}
    assert members.keys() == {*OPERATIONS}
    forget = serving.executor.forgetter(names.forget)
    members |= {"forget": staticmethod(forget), "enable_acl": acl}
    made: pyfuse3.Operations = type("Operations", (pyfuse3.Operations,), members)()
    return made


async def flush(_fh: int) -> None:
    """Have the kernel send no FLUSH any more; it remembers that for the mount."""
    raise pyfuse3.FUSEError(errno.ENOSYS)
