"""A file system that answers late or not at all; run as `python file_system.py MOUNTPOINT`.

It has one directory of files, whose names say what they do: to read `read-2` takes two seconds, to
look up `lookup-hang` takes until SIGUSR1 comes, which lets all requests go on that hang then or
later. When one begins to hang, the operation is written to stdout.
"""

import ctypes
import errno
import os
import signal
import stat
import sys
from typing import Final

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FUSEError,
    InodeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

CONTENT: Final = b"content\n"
HANGING: Final = ("lookup-hang", "open-hang", "read-hang", "write-hang", "fsync-hang")
NAMES: Final = ("file", "lookup-1", "read-1", *HANGING)
_PR_SET_PDEATHSIG: Final = 1
_FIRST: Final = pyfuse3.ROOT_INODE + 1


class SlowFileSystem(pyfuse3.Operations):
    """The files of `NAMES`, in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._contents = [bytearray(CONTENT) for _ in NAMES]
        self._released = trio.Event()

    async def release_on(self, number: signal.Signals) -> None:
        """Let requests go on when a signal comes."""
        with trio.open_signal_receiver(number) as signals:
            os.write(sys.stdout.fileno(), b"ready\n")
            async for _ in signals:
                self._released.set()

    async def _take_time(self, op: str, inode: int) -> None:
        named, _, how = NAMES[inode - _FIRST].partition("-")
        if named != op:
            return
        if how == "hang":
            os.write(sys.stdout.fileno(), b"%s\n" % op.encode())
            await self._released.wait()
        else:
            await trio.sleep(float(how))

    def _attributes(self, inode: int) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino = InodeT(inode)
        is_root = inode == pyfuse3.ROOT_INODE
        entry.st_mode = stat.S_IFDIR | 0o755 if is_root else stat.S_IFREG | 0o644
        entry.st_nlink = 1
        entry.st_size = 0 if is_root else len(self._contents[inode - _FIRST])
        # Ask for everything each time.
        entry.attr_timeout = entry.entry_timeout = 0
        return entry

    async def getattr(self, inode: InodeT, _ctx: RequestContext | None) -> EntryAttributes:
        return self._attributes(inode)

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        _fh: FileHandleT | None,
        _ctx: RequestContext,
    ) -> EntryAttributes:
        if fields.update_size:
            content = self._contents[inode - _FIRST]
            content[:] = content[: attr.st_size].ljust(attr.st_size, b"\0")
        return self._attributes(inode)

    async def lookup(
        self, parent_inode: InodeT, name: bytes, _ctx: RequestContext
    ) -> EntryAttributes:
        if name == b".":
            return self._attributes(parent_inode)
        if os.fsdecode(name) not in NAMES:
            raise FUSEError(errno.ENOENT)
        inode = _FIRST + NAMES.index(os.fsdecode(name))
        await self._take_time("lookup", inode)
        return self._attributes(inode)

    async def opendir(self, inode: InodeT, _ctx: RequestContext) -> FileHandleT:
        return FileHandleT(inode)

    async def readdir(self, _fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        for number in range(start_id, len(NAMES)):
            name = os.fsencode(NAMES[number])
            if not pyfuse3.readdir_reply(
                token, name, self._attributes(_FIRST + number), number + 1
            ):
                return

    async def open(self, inode: InodeT, flags: int, _ctx: RequestContext) -> FileInfo:
        await self._take_time("open", inode)
        if flags & os.O_TRUNC:
            self._contents[inode - _FIRST].clear()
        return FileInfo(fh=FileHandleT(inode))

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        await self._take_time("read", fh)
        return bytes(self._contents[fh - _FIRST][off : off + size])

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        await self._take_time("write", fh)
        self._contents[fh - _FIRST][off : off + len(buf)] = buf
        return len(buf)

    async def fsync(self, fh: FileHandleT, _datasync: bool) -> None:
        await self._take_time("fsync", fh)

    async def statfs(self, _ctx: RequestContext) -> StatvfsData:
        return StatvfsData()


async def _serve(operations: SlowFileSystem) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(operations.release_on, signal.SIGUSR1)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


def _end_with_tests() -> None:
    """Be killed with the process of the tests, so that nobody waits for an answer for ever."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _end_with_tests()
    slow = SlowFileSystem()
    options = {*pyfuse3.default_options, "fsname=slow", "allow_other"}
    pyfuse3.init(slow, sys.argv[1], options)
    trio.run(_serve, slow)
