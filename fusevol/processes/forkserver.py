"""Forking keepers from a process that has loaded all they need.

A keeper that is forked is there in some milliseconds, and shares with all others the memory that
its modules take; so do the workers.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Final

import trio

from fusevol.processes import handover

FORK: Final = "--fork"
_ANSWER_BYTES: Final = 32
_TRIES: Final = 3
"""How often in a row the process may be killed before its answer."""

logger = logging.getLogger(__name__)


class ForkServer:
    """Has keepers forked. Runs in trio."""

    def __init__(self) -> None:
        """Start with no process; the first keeper starts it."""
        self._socket: trio.socket.SocketType | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = trio.Lock()

    async def spawn(self, channel: socket.socket) -> int:
        """Fork a keeper with its end of a channel; return its process id.

        Raises:
            OSError: no process can be started.
        """
        async with self._lock:
            for _ in range(_TRIES):
                pid = await self._ask(channel)
                if pid is not None:
                    return pid
                # It was killed, or is the first.
                self._start()
            pid = await self._ask(channel)
            if pid is None:
                raise ChildProcessError("the process that starts keepers exits immediately")
            return pid

    def close(self) -> None:
        """End the process; keepers go on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            # One that was stopped would not end by itself.
            self._process.kill()
            self._process.wait()

    async def _ask(self, channel: socket.socket) -> int | None:
        if self._socket is None:
            return None
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, channel.fileno().to_bytes(4, sys.byteorder))
        try:
            await self._socket.sendmsg([b"+"], [rights])
            answer = await self._socket.recv(_ANSWER_BYTES)
        except ConnectionError:
            return None
        return int(answer) if answer else None

    def _start(self) -> None:
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*handover.command(), FORK, str(theirs.fileno())], pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL, start_new_session=True, cwd="/",
            )  # fmt: skip
        self._socket = trio.socket.from_stdlib_socket(ours)


def serve(control_fd: int, run: Callable[[int], int]) -> None:
    """Fork a process that calls `run` for each descriptor that comes, until the stream ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control = socket.socket(fileno=control_fd)
    while True:
        _, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not fds:
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            _run(run, fds[0])
        os.close(fds[0])
        control.send(str(pid).encode())


def _run(run: Callable[[int], int], fd: int) -> None:
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        status = run(fd)
    except BaseException:
        logger.exception("the keeper failed")
    finally:
        os._exit(status)
