"""Data: open, create, read, write, flush, fsync, release."""

import errno
import fcntl
import os
import stat
import time
from contextlib import AbstractContextManager
from os import stat_result
from typing import Final

from fusevol.inodes.objects import NO_FD, Directory, Inode, OpenFile
from fusevol.linux.files import descriptor_path
from fusevol.linux.filesystems import Storage
from fusevol.model import Caller
from fusevol.recovery.journal import Entry
from fusevol.volume import idempotency
from fusevol.volume.acting import CHANGE_CONTENT, SET_ID, Client
from fusevol.volume.descriptors import describes, stale
from fusevol.volume.volume import Volume

MAX_READ_BYTES: Final = 1 << 20
"""Largest READ the kernel sends: 256 pages (FUSE_DEFAULT_MAX_PAGES_LIMIT, fuse_i.h)."""

_NOT_PASSED_ON: Final = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_DIRECT | os.O_NOFOLLOW
"""O_DIRECT is dropped because it wants aligned buffers, which FUSE does not hand us."""

_ALWAYS: Final = os.O_CLOEXEC | os.O_NONBLOCK
"""O_NONBLOCK so that a FIFO put in place of the file at the last moment cannot hold us up."""

_FMODE_EXEC: Final = 0x20
"""Stands in the flags of an open for execve(2) (linux/fs.h); open(2) ignores it."""

_RWF_NOAPPEND: Final = 0x20
"""pwritev2(2), Linux 6.9."""

_RACY_NS: Final = 20_000_000
"""Two changes within one tick of the clock (1 to 10 ms) may leave the same mtime."""


class WouldWaitError(Exception):
    """The call has to wait for a device: repeat it on another thread."""


def open(
    volume: Volume,
    inode: Inode,
    flags: int,
    client: Client,
    caller: Caller,
    entry: Entry,
) -> tuple[OpenFile, stat_result]:
    """Open a regular file and enter it in `volume.files`.

    Raises:
        OSError: as of open(2); EACCES if it is to be executed and its file system is mounted
            noexec, which the mount of the volume may not be.
    """
    if entry.is_done:
        return _opened_before(volume, entry)
    volume.make_room()
    fd = _open_inode(volume, inode, flags, client)
    status = os.fstat(fd)
    if not describes(status, inode):
        os.close(fd)
        raise stale(inode)
    if flags & _FMODE_EXEC and os.fstatvfs(fd).f_flag & os.ST_NOEXEC:
        os.close(fd)
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), inode.name)
    file = OpenFile(inode, fd, flags, caller, client.uid, client.gid)
    _enter(volume, file, status)
    entry.done(file.fh)
    return file, status


def _enter(volume: Volume, file: OpenFile, status: stat_result) -> None:
    volume.add_file(file)
    if status.st_mode & SET_ID and file.writable:
        volume.note_set_id(file)


def _open_inode(volume: Volume, inode: Inode, flags: int, client: Client) -> int:
    wanted = flags & ~_NOT_PASSED_ON | _ALWAYS
    if flags & os.O_TRUNC:
        # By name, whatever stands there by then would be truncated before it could be checked.
        fd = volume.descriptors.pin(inode)
        with volume.acting.as_client(CHANGE_CONTENT, client, os.fstat(fd)):
            return _open_host(descriptor_path(fd), wanted)
    parent = inode.parent
    if parent is None or inode.fd != NO_FD or inode.files or inode.handle is not None:
        return _open_host(descriptor_path(volume.descriptors.pin(inode)), wanted)
    dir_fd = volume.descriptors.pin(parent)
    try:
        return _open_host(inode.name, wanted | os.O_NOFOLLOW, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
            raise stale(inode) from None
        raise


def _open_host(
    path: bytes | str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
) -> int:
    try:
        return os.open(path, flags, mode, dir_fd=dir_fd)
    except OSError as error:
        if error.errno != errno.EPERM or not flags & os.O_NOATIME:
            raise
    # The kernel asked for the owner or CAP_FOWNER, and the client had it; this process has not.
    return os.open(path, flags & ~os.O_NOATIME, mode, dir_fd=dir_fd)


def create(
    volume: Volume,
    parent: Directory,
    name: bytes,
    mode: int,
    flags: int,
    client: Client,
    caller: Caller,
    entry: Entry,
) -> tuple[OpenFile, stat_result]:
    """Create a regular file, or open it if it came to be in the meantime, and enter it."""
    if entry.is_done:
        return _opened_before(volume, entry)
    wanted = flags & ~_NOT_PASSED_ON | flags & os.O_EXCL | _ALWAYS | os.O_CREAT | os.O_NOFOLLOW
    volume.make_room()
    dir_fd = volume.descriptors.pin(parent)
    if flags & os.O_EXCL and idempotency.made(entry, dir_fd, name):
        wanted &= ~os.O_EXCL
    try:
        fd = volume.acting.make(client, mode, _open_host, name, wanted, mode, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO) and not flags & os.O_EXCL:
            # Something else was put there; the kernel looks it up again and deals with it.
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name) from None
        raise
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)
    file = OpenFile(volume.seen(parent, name, status), fd, flags, caller, client.uid, client.gid)
    _enter(volume, file, status)
    entry.done(file.fh)
    return file, status


def _opened_before(volume: Volume, entry: Entry) -> tuple[OpenFile, stat_result]:
    """Return what this request has opened already."""
    file = volume.files.get(entry.fh)
    return file, os.fstat(file.fd)


def pages_are_right(inode: Inode, status: stat_result) -> bool:
    """Return whether what the kernel has cached of a file is still its content.

    `status` is the file's at its open; it is remembered for the next.
    """
    stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_size)
    settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _RACY_NS
    right = stamp == inode.stamp
    inode.stamp = stamp if settled else None
    return right


class Reader:
    """Reads into one buffer, since a reply leaves before the next read begins."""

    def __init__(self) -> None:
        self._buffer = bytearray(MAX_READ_BYTES)
        self._view = memoryview(self._buffer)

    def read(self, volume: Volume, file: OpenFile, offset: int, size: int) -> memoryview:
        """Return what is at `offset`; less than `size` bytes only at the end of the file.

        The result is valid until the next call.

        Raises:
            WouldWaitError: the data is not in the page cache; call `read_waiting` on a thread.
        """
        target = self._view[:size]
        if volume.storage_at(file.inode, file.fd) is Storage.MEMORY:
            return target[: os.preadv(file.fd, [target], offset)]
        try:
            done = os.preadv(file.fd, [target], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise WouldWaitError from None
            raise
        if done < size and offset + done < os.fstat(file.fd).st_size:
            raise WouldWaitError
        return target[:done]


def read_waiting(file: OpenFile, offset: int, size: int) -> bytes:
    """Read as `Reader.read` does, and wait for the device. Runs on any thread."""
    parts = []
    while size > 0:
        part = os.pread(file.fd, size, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write(
    file: OpenFile,
    offset: int,
    data: bytes,
    appends: bool,
    entry: Entry,
    context: AbstractContextManager[None] | None = None,
) -> int:
    """Write all of `data`; return the number of bytes. Runs on any thread.

    An error after some bytes were written is reported by the next call, as write(2) does. The
    caller notes the length that the file has for the kernel afterwards.

    Args:
        appends: it is to go to the end (`lengths.is_append`).
        context: in which to do so, if as another than the worker (`volume.acting`).
    """
    if context is None:
        return _write(file, offset, data, appends, entry)
    with context:
        return _write(file, offset, data, appends, entry)


def _write(file: OpenFile, offset: int, data: bytes, appends: bool, entry: Entry) -> int:
    may_append = bool(file.flags & os.O_APPEND)
    if may_append and entry.is_done:
        return len(data)
    pwrite = _pwrite_in_place if may_append and not appends else os.pwrite
    done = 0
    if appends:
        done = idempotency.appended(entry, file.fd, data)
    if not done:
        done = pwrite(file.fd, data, offset)
    while done < len(data):
        try:
            more = pwrite(file.fd, memoryview(data)[done:], offset + done)
        except OSError:
            break
        if more == 0:
            break
        done += more
    if may_append:
        entry.done()
    return done


def _pwrite_in_place(fd: int, data: bytes | memoryview, offset: int) -> int:
    """Write at `offset` although `fd` has O_APPEND."""
    try:
        return os.pwritev(fd, [data], offset, _RWF_NOAPPEND)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_APPEND)
    try:
        return os.pwrite(fd, data, offset)
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def flush(file: OpenFile) -> None:
    """Report what close(2) on the host would report now (quota, lost writes on NFS)."""
    if file.writable:
        os.close(os.dup(file.fd))


def fsync(file: OpenFile, datasync: bool) -> None:
    """Wait until data (and attributes) are on the device. Runs on any thread."""
    if datasync:
        os.fdatasync(file.fd)
    else:
        os.fsync(file.fd)


def release(file: OpenFile) -> None:
    """Close an open file; `volume.remove_file` then takes it out."""
    files = file.inode.files
    if files is not None:
        # Nobody may find the inode by a descriptor whose number is another file's by then.
        files.pop(file.fh, None)
    os.close(file.fd)
