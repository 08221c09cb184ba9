"""The worker: serves the requests of one mount.

A fork of the keeper, with which it shares the table of descriptors and the recovery state; whatever
becomes of it, another one goes on. If the keeper dies, the worker finishes what it has begun and
becomes the keeper itself.
"""

import gc
import logging
import os
import signal
import socket
from typing import Final

import trio

from fusevol.errors import FusevolError
from fusevol.fuse.session import Session
from fusevol.options.config import MountConfig
from fusevol.processes import handover
from fusevol.processes.channel import Failed, Prepared, Ready, pack
from fusevol.proof.sealer import CHECKPOINT_S
from fusevol.protocol.resend import Leftovers
from fusevol.recovery.region import FUSE_FD, INIT, Region

DRAINED: Final = 75
"""Exit status of a worker that was asked to make room for another."""
DRAIN: Final = signal.SIGUSR1
_DRAIN_S: Final = 2.0
"""How long requests that wait for a device may take before a worker makes room without them."""

logger = logging.getLogger(__name__)


def begin(config: MountConfig, region: Region, channel: socket.socket, keeper: int) -> int:
    """Serve a new mount, as the keeper makes it; return the exit status.

    Args:
        channel: to the keeper, which says by one message that it has mounted.
        keeper: pidfd of the keeper.
    """
    _leave_signals_to_keeper()
    try:
        session = Session(config, region)
    except FusevolError as error:
        channel.send(pack(Failed.of(error)))
        return 0
    channel.send(pack(Prepared(session.single_file, session.flags)))
    if not channel.recv(1):
        return 0  # the keeper could not mount, and says so itself
    return _serve(session, region, Leftovers(), keeper, channel)


def go_on(config: MountConfig, region: Region, leftovers: Leftovers, keeper: int) -> int:
    """Serve what an earlier worker served; return the exit status."""
    _leave_signals_to_keeper()
    return _serve(Session(config, region), region, leftovers, keeper, None)


def _leave_signals_to_keeper() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)


def _serve(
    session: Session,
    region: Region,
    leftovers: Leftovers,
    keeper: int,
    channel: socket.socket | None,
) -> int:
    _keep_garbage_collection_rare()

    def started() -> None:
        if channel is not None:
            channel.send(pack(Ready()))

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(_obey, session)
            nursery.start_soon(_succeed_keeper, session, region, keeper)
            if session.is_chained:
                nursery.start_soon(_sign_now_and_then, session)
            await session.serve(region.descriptor(FUSE_FD), region.text(INIT), started, leftovers)
            nursery.cancel_scope.cancel()

    trio.run(serve)
    session.close()
    return 0


async def _obey(
    session: Session, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGHUP, DRAIN) as signals:
        # Until now, its sender has waited; the keeper has begun this process so.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handover.SIGNALS)
        task_status.started()
        session.reopen_log()
        async for number in signals:
            if number == DRAIN:
                await _drain(session)
                os._exit(DRAINED)
            session.reopen_log()
            session.tell_notes()


async def _sign_now_and_then(session: Session) -> None:
    while True:
        await trio.sleep(CHECKPOINT_S)
        session.checkpoint()


async def _drain(session: Session) -> None:
    with trio.move_on_after(_DRAIN_S):
        await session.drain()


async def _succeed_keeper(session: Session, region: Region, keeper: int) -> None:
    """Become the keeper when there is none any more."""
    await trio.lowlevel.wait_readable(keeper)
    await _drain(session)
    try:
        handover.become_keeper(region, "keeper killed")
    except OSError as error:
        logger.error("the keeper is gone, and another cannot be started (%s)", error.strerror)
        session.resume()


def _keep_garbage_collection_rare() -> None:
    """Requests leave no cycles behind, and a collection walks a million inodes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
