"""The process that forks keepers may be killed, also twice, or stopped."""

import os
import signal
import socket
from pathlib import Path

import trio

from fusevol.processes import forkserver
from fusevol.processes.forkserver import ForkServer


def _process() -> int:
    """Return the fork server among the children of this process."""
    me = os.getpid()
    for child in Path(f"/proc/{me}/task/{me}/children").read_text().split():
        if forkserver.FORK.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise AssertionError("there is no fork server")


async def _spawn(forks: ForkServer) -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, trio.fail_after(60):
        return await forks.spawn(theirs)


async def test_another_one_forks_when_it_was_killed() -> None:
    forks = ForkServer()
    try:
        keepers = [await _spawn(forks)]
        for _ in range(2):
            os.kill(_process(), signal.SIGKILL)
            keepers.append(await _spawn(forks))
        assert len(set(keepers)) == len(keepers)
    finally:
        forks.close()


async def test_one_that_was_stopped_holds_nobody_up_in_the_end() -> None:
    forks = ForkServer()
    await _spawn(forks)
    os.kill(_process(), signal.SIGSTOP)
    forks.close()
