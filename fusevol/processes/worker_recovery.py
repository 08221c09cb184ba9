"""What the keeper does between two workers: sees what was left undone, and refuses what kills.

A request that was being executed each time a worker died is taken for the reason, and refused with
EIO after a few times: soon if the worker failed by itself, late if it was killed, which may have
been chance.
"""

import logging
import os
import signal
import time
from typing import Final

from fusevol.options.config import MountConfig
from fusevol.processes import handover
from fusevol.processes.own_descriptors import OwnDescriptors
from fusevol.protocol.init import Flag, offered
from fusevol.protocol.resend import (
    Leftovers,
    UnansweredRequest,
    look,
    refuse,
    refuse_unanswered,
    resend,
)
from fusevol.recovery.journal import Journal
from fusevol.recovery.region import FUSE_FD, INIT, PROGRESS, Region

logger = logging.getLogger(__name__)

_CRASHES: Final = 3
_KILLS: Final = 8
_FIRST_DELAY_S: Final = 0.1
_LONGEST_DELAY_S: Final = 10.0


class WorkerRecovery:
    """The way from one worker to the next.

    Attributes:
        leftovers: what the next worker has to know.
    """

    def __init__(self, config: MountConfig, region: Region, own: OwnDescriptors) -> None:
        self.leftovers = Leftovers()
        self._config = config
        self._region = region
        self._own = own
        self._failures = 0
        self._suspect = 0
        self._suspicion = 0

    def prepare(self, status: int) -> float:
        """Get everything ready for the next worker; return how long to wait for it, in seconds.

        Args:
            status: how the last one ended, as in subprocess.returncode.

        Raises:
            OSError: ENODEV if the file system was unmounted meanwhile.
        """
        self._own.close_others()
        progressed = bool(self._region.words[PROGRESS])
        self._region.words[PROGRESS] = 0
        self._failures = 1 if progressed else self._failures + 1
        kept = self.leftovers.refused if not progressed else []
        self.leftovers = Leftovers(refused=kept)
        taken_up = self.settle(status)
        self._region.add_restart(f"{why_ended(status)}; {taken_up} requests were resumed")
        if self._failures < 2:
            return 0.0
        return min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0 ** (self._failures - 2))

    def settle(self, status: int = 0) -> int:
        """See which requests are unanswered, and have them sent again; return how many.

        Raises:
            OSError: ENODEV if the file system was unmounted meanwhile.
        """
        fuse_fd = self._region.descriptor(FUSE_FD)
        journal = Journal(self._region)
        if Flag.HAS_RESEND not in offered(self._region.text(INIT)):
            _refuse_all(fuse_fd, self._config.mountpoint)
            journal.settle(())
            return 0
        resend(fuse_fd)
        requests = look(fuse_fd, self.leftovers)
        poison = self._poison(journal, requests, status)
        if poison is not None:
            logger.error(
                "%s: request %s of process %d crashed the worker %d times; it fails with EIO",
                self._config.mountpoint, poison.op, poison.pid, self._suspicion,
            )  # fmt: skip
            refuse(fuse_fd, poison)
            self.leftovers.refused.append(poison)
            requests.remove(poison)
        journal.settle([(request.key, request.xattr_flags) for request in requests])
        resend(fuse_fd)
        return len(requests)

    def _poison(
        self, journal: Journal, requests: list[UnansweredRequest], status: int
    ) -> UnansweredRequest | None:
        """Return the request that no worker shall get any more, if there is one."""
        suspect = _executed(journal, requests)
        if suspect is None:
            self._suspect = self._suspicion = 0
            return None
        if suspect.number != self._suspect:
            self._suspect, self._suspicion = suspect.number, 0
        self._suspicion += 1
        limit = _KILLS if status == -signal.SIGKILL else _CRASHES
        return suspect if self._suspicion >= limit else None


def _executed(journal: Journal, requests: list[UnansweredRequest]) -> UnansweredRequest | None:
    """Return the request that the last worker was executing; the only one if it did not say."""
    key = journal.executing()
    if key is not None:
        return next((request for request in requests if request.key == key), None)
    return requests[0] if len(requests) == 1 and not journal.is_waiting() else None


def _refuse_all(fuse_fd: int, mountpoint: str) -> None:
    """Refuse all unanswered requests, with the help of one that a child makes."""
    pid = os.fork()
    if pid == 0:
        try:
            os.statvfs(mountpoint)
        finally:
            os._exit(0)
    refuse_unanswered(fuse_fd)
    end = time.monotonic() + 1
    while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < end:
        time.sleep(0.001)


def why_ended(status: int) -> str:
    """Return in words how a worker ended that failed."""
    return f"worker {handover.how_ended(status)}"
