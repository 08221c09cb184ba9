"""The keeper's side of the log agent: starting it, and having another when it ends."""

import logging
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec

from fusevol.accesslog.names import encode_name
from fusevol.accesslog.times import now
from fusevol.config import MountConfig
from fusevol.logagent.start import MODULE, REOPEN, Start

_SHORTEST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 60.0
_WORKED_S: Final = 60.0
"""An agent that lived so long is replaced at once."""

logger = logging.getLogger(__name__)


class LogAgent:
    """The agent of one mount's log, if it needs one.

    It ends when the channel does: when this process executes itself anew or has ended, and the
    worker with it, which shares its descriptors.

    Attributes:
        start_at: when to start another one, by `time.monotonic()`; None for not.
    """

    def __init__(
        self, config: MountConfig, selector: selectors.BaseSelector, reopen: Callable[[], None]
    ) -> None:
        """Prepare.

        Args:
            config: of the mount.
            selector: tells of the agent's wishes, and of its end.
            reopen: opens the log anew.
        """
        self._config = config
        self._selector = selector
        self._reopen = reopen
        self._since = now()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._started = 0.0
        self._wait_s = _SHORTEST_WAIT_S
        self.start_at: float | None = 0.0 if config.logging.needs_agent else None

    def is_due(self) -> bool:
        """Tell whether to start one now."""
        return self.start_at is not None and time.monotonic() >= self.start_at

    def start(self) -> None:
        """Start it."""
        self.start_at = None
        config = self._config
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, cwd="/",
            )  # fmt: skip
        ours.setblocking(False)
        start = Start(encode_name(os.fsencode(config.log)), config.logging, self._since)
        ours.send(msgspec.json.encode(start))
        self._channel = ours
        self._started = time.monotonic()
        self._selector.register(ours, selectors.EVENT_READ, self._obey)

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
        elif not said:
            self._ended()

    def _ended(self) -> None:
        assert self._channel is not None
        assert self._process is not None
        self._selector.unregister(self._channel)
        self._channel.close()
        status = self._process.wait()
        if time.monotonic() - self._started > _WORKED_S:
            self._wait_s = _SHORTEST_WAIT_S
        logger.error(
            "access log %s: its agent has ended (status %d); another one starts in %g s",
            self._config.log, status, self._wait_s,
        )  # fmt: skip
        self.start_at = time.monotonic() + self._wait_s
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
