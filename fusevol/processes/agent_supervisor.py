"""The keeper's side of the log agent: starting it, and having another when it ends."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec

from fusevol.logagent.start import AT_WORK, MODULE, REOPEN, AgentStart
from fusevol.names import encode_name
from fusevol.options.config import MountConfig
from fusevol.processes.handover import how_ended
from fusevol.processes.own_descriptors import OwnDescriptors, Pidfd
from fusevol.recovery.region import SINKS_BEGIN, Region

_SHORTEST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 60.0
_WORKED_S: Final = 5.0
"""An agent that lived so long works, and is replaced soon."""
_LEAVE_S: Final = 10.0
"""How long an agent that has closed its channel has to end."""

logger = logging.getLogger(__name__)


class AgentSupervisor:
    """The agent of one mount's log, if it needs one.

    It ends when the channel does: when this process executes itself anew or has ended, and the
    worker with it, which shares its descriptors. Whatever becomes of it, and if none can be
    started, the keeper goes on.

    Attributes:
        trouble: why there is none, though there should be; "" if one is at work.
    """

    def __init__(
        self,
        config: MountConfig,
        region: Region,
        own: OwnDescriptors,
        reopen: Callable[[], None],
        tell: Callable[[str], None],
    ) -> None:
        """Prepare.

        Args:
            config: of the mount.
            region: says where new sinks begin.
            own: reports the agent's requests and its end.
            reopen: reopens the log.
            tell: is called when `trouble` has changed, with what it was before.
        """
        self.trouble = ""
        self._config = config
        self._own = own
        self._reopen = reopen
        self._tell = tell
        self._region = region
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._started = 0.0
        self._wait_s = _SHORTEST_WAIT_S
        self._start_at: float | None = 0.0 if config.logging.needs_agent else None
        self._kill_at: float | None = None

    @property
    def pid(self) -> int:
        """Process id of the agent; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def next_moment(self) -> float | None:
        """Return when `go_on` has something to do, on the monotonic clock; None for never."""
        return self._start_at if self._process is None else self._kill_at

    def go_on(self) -> None:
        """Do what is due now."""
        moment = self.next_moment()
        if moment is None or time.monotonic() < moment:
            return
        self._start_at = self._kill_at = None
        if self._process is not None:
            self._process.kill()
            return
        self._started = time.monotonic()
        try:
            self._start()
        except (OSError, subprocess.SubprocessError, MemoryError) as error:
            self._another_later(f"cannot be started ({error})")

    def dismiss(self, messages: str) -> bool:
        """Notify the agent that the mount has ended; return whether there is one, which continues.

        Args:
            messages: file that the agent removes if nothing was said.
        """
        if self._channel is None and self._config.logging.sinks:
            # The one before was killed, or has just failed. Without another, the end of the log
            # would wait for the next mount.
            with contextlib.suppress(OSError, subprocess.SubprocessError, MemoryError):
                self._start()
        if self._channel is None:
            return False
        try:
            self._channel.send(os.fsencode(messages))
        except OSError:
            return False
        return True

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", MODULE, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, cwd="/",
                )  # fmt: skip
            try:
                pidfd = Pidfd(process.pid)
            except OSError:
                process.kill()
                process.wait()
                raise
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        self._channel, self._process = ours, process
        self._own.watch(ours, self._obey)
        self._own.watch(pidfd, lambda: self._ended(pidfd))
        config = self._config
        begin = self._region.words[SINKS_BEGIN]
        start = AgentStart(encode_name(os.fsencode(config.log)), config.logging, begin)
        try:
            ours.send(msgspec.json.encode(start))
        except OSError:
            process.kill()  # unless it has ended already; its end is reported in any case

    def _obey(self) -> None:
        assert self._channel is not None
        try:
            said = self._channel.recv(1)
        except BlockingIOError:
            return
        except ConnectionResetError:
            said = b""
        if said == REOPEN:
            self._reopen()
        elif said == AT_WORK:
            self._set_trouble("")
        elif not said:
            self._close_channel()
            self._kill_at = time.monotonic() + _LEAVE_S

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._own.close(self._channel)
            self._channel = None

    def _ended(self, pidfd: Pidfd) -> None:
        assert self._process is not None
        self._own.close(pidfd)
        self._close_channel()
        status = self._process.wait()
        self._process = None
        if time.monotonic() - self._started > _WORKED_S:
            self._wait_s = _SHORTEST_WAIT_S
        self._another_later(f"has exited ({how_ended(status)})")

    def _another_later(self, why: str) -> None:
        logger.error(
            "access log %s: its agent %s; starting another in %g s",
            self._config.log, why, self._wait_s,
        )  # fmt: skip
        self._start_at = time.monotonic() + self._wait_s
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        self._set_trouble(f"agent {why}: no rotation, no retention, nothing is sent to sinks")

    def _set_trouble(self, trouble: str) -> None:
        if trouble != self.trouble:
            before, self.trouble = self.trouble, trouble
            self._tell(before)
