"""Spare descriptors of a mount, with which it is revived when keeper and worker are killed.

They are held by the process that had the mount made, and by the service manager while that process
is restarted (sd_pid_notify_with_fds(3), FDSTORE=1). What was open when all died is reopened by
its file handle or name; only what had no name any more is lost.
"""

import hashlib
import logging
import math
import os
import select
import subprocess
import sys
import time
from typing import Final

from fusevol.linux.process import Process, descriptor_of
from fusevol.linux.systemd import notify, passed_descriptors
from fusevol.mounts import registry
from fusevol.mounts.connection import connection_of
from fusevol.processes import handover
from fusevol.recovery.region import ROOT_FD, WORD

_DEVICE: Final = "device"
_STATE: Final = "state"
_FIRST_DELAY_S: Final = 0.1
_LONGEST_DELAY_S: Final = 10.0
_LIVED_S: Final = 10.0
"""A keeper that lived so long is succeeded at once."""
_FAILURES: Final = 3
"""So many revived keepers in a row that fail by themselves cannot be helped, such as those whose
code does not understand the state."""

logger = logging.getLogger(__name__)


class FdStore:
    """/dev/fuse and the recovery state of one mount.

    Attributes:
        connection: of the mount; None if it cannot be held.
    """

    def __init__(self, mountpoint: str, device: int, fuse_fd: int, region_fd: int) -> None:
        self._mountpoint = mountpoint
        self._fds = (region_fd, fuse_fd)
        self.connection = connection_of(fuse_fd, device)
        self._revivals = 0
        self._failures = 0
        self._revived_s = -math.inf
        self._alive_fd = -1
        self._keeper = 0

    @property
    def device_fd(self) -> int:
        """/dev/fuse."""
        return self._fds[1]

    @classmethod
    def of(cls, served: registry.MountEntry) -> "FdStore | None":
        """Get them from the keeper; None if it has ended or this process may not have them."""
        fds = _descriptors_of(served, served.device_fd, served.state_fd)
        if not fds:
            return None
        fdstore = cls(served.mountpoint, served.device, *fds)
        fdstore._store()
        fdstore.follow(served)
        return fdstore

    @classmethod
    def stored(cls, mountpoint: str, device: int) -> "FdStore | None":
        """Take those that the service manager has started this process with, if it has.

        Args:
            device: st_dev of the mount.
        """
        passed = passed_descriptors()
        fds = [passed.pop(_name(mountpoint, what), -1) for what in (_DEVICE, _STATE)]
        if -1 in fds:
            _close([fd for fd in fds if fd >= 0])
            return None
        return cls(mountpoint, device, *fds)

    def follow(self, served: registry.MountEntry) -> None:
        """Take note of the mount's present keeper."""
        if served.pid == self._keeper:
            return
        fds = _descriptors_of(served, served.alive_fd)
        if fds:
            self._keeper = served.pid
            if self._alive_fd >= 0:
                os.close(self._alive_fd)
            (self._alive_fd,) = fds

    def source_status(self, served: registry.MountEntry) -> os.stat_result | None:
        """Return the status of the source that is open, None if it cannot be seen; may hang."""
        number = int.from_bytes(os.pread(self._fds[0], WORD, ROOT_FD * WORD), sys.byteorder)
        fds = _descriptors_of(served, number - 1) if number else []
        try:
            return os.fstat(fds[0]) if fds else None
        finally:
            _close(fds)

    def is_kept(self) -> bool:
        """Return whether the keeper, or a worker that becomes the keeper, is alive."""
        if self._alive_fd < 0:
            return False  # It died before `follow` could take note of it.
        poll = select.poll()
        poll.register(self._alive_fd, select.POLLIN)
        return not poll.poll(0)

    def delay_s(self, status: int) -> float | None:
        """Return how long to wait before `revive`; None if that would not help.

        Args:
            status: how the last keeper ended, as in subprocess.returncode; 0 if that is not known.
        """
        if time.monotonic() - self._revived_s >= _LIVED_S:
            self._revivals = self._failures = 0
        self._failures = self._failures + 1 if status > 0 else 0
        if self._failures >= _FAILURES:
            return None
        if not self._revivals:
            return 0.0
        return min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0 ** (self._revivals - 1))

    def revive(self) -> "subprocess.Popen[bytes] | None":
        """Start a keeper that goes on with the mount; what has died with the others is lost.

        Returns None if no process can be started now.
        """
        self._revivals += 1
        self._revived_s = time.monotonic()
        try:
            return subprocess.Popen(
                [*handover.command(), handover.REVIVE, *map(str, self._fds)],
                pass_fds=self._fds, stdin=subprocess.DEVNULL, start_new_session=True, cwd="/",
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            logger.error("%s: cannot start a keeper: %s", self._mountpoint, error)
            return None

    def close(self) -> None:
        """Give them up, as the mount has ended."""
        _close([fd for fd in (*self._fds, self._alive_fd) if fd >= 0])
        if self.connection is not None:
            self.connection.close()
        for what in (_DEVICE, _STATE):
            notify(f"FDSTOREREMOVE=1\nFDNAME={_name(self._mountpoint, what)}")

    def _store(self) -> None:
        for what, fd in zip((_STATE, _DEVICE), self._fds, strict=True):
            notify(f"FDSTORE=1\nFDNAME={_name(self._mountpoint, what)}", [fd])


def _descriptors_of(served: registry.MountEntry, *numbers: int) -> list[int]:
    """Return duplicates of a keeper's descriptors; none if it has ended or does not allow it."""
    fds: list[int] = []
    for number in numbers:
        fd = duplicate(served.keeper, number)
        if fd < 0:
            _close(fds)
            return []
        fds.append(fd)
    return fds


def duplicate(process: Process, number: int) -> int:
    """Return a duplicate of a descriptor of a process; -1 if it has ended or does not allow it."""
    pidfd = process.open()
    if pidfd < 0:
        return -1
    try:
        return descriptor_of(pidfd, number)
    except OSError:
        return -1
    finally:
        os.close(pidfd)


def _name(mountpoint: str, what: str) -> str:
    return f"{hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:32]}-{what}"


def _close(fds: "list[int] | tuple[int, ...]") -> None:
    for fd in fds:
        os.close(fd)
