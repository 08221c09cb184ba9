"""Between pyfuse3's types and the host's."""

import os
from os import stat_result
from typing import Final

import pyfuse3

from fusevol.model import Caller
from fusevol.record.record import AccessRecord
from fusevol.volume.acting import Client
from fusevol.volume.attributes import Changes

_FLAG_NAMES: Final = (
    (os.O_APPEND, "O_APPEND"),
    (os.O_CREAT, "O_CREAT"),
    (os.O_EXCL, "O_EXCL"),
    (os.O_TRUNC, "O_TRUNC"),
    (os.O_NONBLOCK, "O_NONBLOCK"),
    (os.O_SYNC, "O_SYNC"),
    (os.O_DSYNC, "O_DSYNC"),
    (os.O_DIRECT, "O_DIRECT"),
    (os.O_DIRECTORY, "O_DIRECTORY"),
    (os.O_NOFOLLOW, "O_NOFOLLOW"),
    (os.O_NOATIME, "O_NOATIME"),
    (os.O_PATH, "O_PATH"),
)
_ACCESS_NAMES: Final = {os.O_RDONLY: "O_RDONLY", os.O_WRONLY: "O_WRONLY", os.O_RDWR: "O_RDWR"}
_RENAME_NAMES: Final = {1: "NOREPLACE", 2: "EXCHANGE", 4: "WHITEOUT"}
_known_flags: dict[int, str] = {}
_KNOWN_FLAGS_LIMIT: Final = 4096


def flag_names(flags: int) -> str:
    """Return the flags of open(2) as text: "O_RDWR|O_APPEND"."""
    text = _known_flags.get(flags)
    if text is None:
        names = [_ACCESS_NAMES.get(flags & os.O_ACCMODE, "O_ACCMODE")]
        rest = flags
        for bits, name in _FLAG_NAMES:
            if rest & bits == bits:
                names.append(name)
                rest &= ~bits
        text = "|".join(names)
        if len(_known_flags) < _KNOWN_FLAGS_LIMIT:
            _known_flags[flags] = text
    return text


def rename_flags(flags: int) -> str:
    """Return the flags of renameat2(2) as text: "NOREPLACE"."""
    return _RENAME_NAMES.get(flags, hex(flags))


def client(ctx: pyfuse3.RequestContext) -> Client:
    """Return the thread that a request comes from."""
    return Client(ctx.uid, ctx.gid, ctx.umask, ctx.pid)


def opener(record: AccessRecord) -> Caller:
    """Return who is named by the record of an open."""
    return Caller(record.pid or 0, record.comm, record.container, record.identity_error)


def octal(mode: int) -> str:
    """Return a mode as chmod(1) takes it: "0644"."""
    return f"{mode:04o}"


def attributes(ino: int, status: stat_result, timeout: float) -> pyfuse3.EntryAttributes:
    """Return `status` as the kernel gets it, valid for `timeout` seconds.

    `ino` is the node id, or the st_ino of what the kernel takes no reference to.
    """
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = ino
    entry.st_mode = status.st_mode
    entry.st_nlink = status.st_nlink
    entry.st_uid = status.st_uid
    entry.st_gid = status.st_gid
    entry.st_rdev = status.st_rdev
    entry.st_size = status.st_size
    entry.st_blocks = status.st_blocks
    entry.st_blksize = status.st_blksize
    entry.st_atime_ns = status.st_atime_ns
    entry.st_mtime_ns = status.st_mtime_ns
    entry.st_ctime_ns = status.st_ctime_ns
    entry.attr_timeout = timeout
    entry.entry_timeout = timeout
    return entry


def changes(attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> Changes:
    """Return what a SETATTR request changes."""
    return Changes(
        mode=attr.st_mode if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        size=attr.st_size if fields.update_size else None,
        atime_ns=attr.st_atime_ns if fields.update_atime else None,
        mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
    )


def statvfs(result: os.statvfs_result) -> pyfuse3.StatvfsData:
    """Return the state of the host's file system as the kernel gets it."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = result.f_bsize
    data.f_frsize = result.f_frsize
    data.f_blocks = result.f_blocks
    data.f_bfree = result.f_bfree
    data.f_bavail = result.f_bavail
    data.f_files = result.f_files
    data.f_ffree = result.f_ffree
    data.f_favail = result.f_favail
    data.f_namemax = result.f_namemax
    return data
