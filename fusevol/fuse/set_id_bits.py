"""Set-user-ID and set-group-ID bits: who may change data and leave them (CAP_FSETID)."""

from typing import Final

from pyfuse3 import RequestContext

from fusevol.fuse.serving import Serving
from fusevol.inodes.objects import Inode
from fusevol.volume import attributes

SET_ID: Final = 0o6000


class SetIdBits:
    """Looks callers up where it depends on them: rare, so nothing is remembered."""

    def __init__(self, serving: Serving) -> None:
        self._volume = serving.volume
        self._callers = serving.callers

    def may_keep(self, inode: Inode, ctx: RequestContext) -> bool:
        """Return whether the caller may change the data of `inode`, and its bits stay."""
        if ctx.uid != 0 or not self._volume.privileged:
            return False
        status = attributes.getattr(self._volume, inode)
        return bool(status.st_mode & SET_ID) and self._callers.may_keep_set_id(ctx.pid)

    def appeared(self, inode: Inode) -> None:
        """See which open files may keep bits that the file did not have when they were opened."""
        if not self._volume.privileged or inode.files is None:
            return
        for file in inode.files.values():
            if file.uid == 0 and file.writable:
                keeps = self._callers.may_keep_set_id(file.caller.pid)
                self._volume.set_keeps_set_id(file, keeps)
