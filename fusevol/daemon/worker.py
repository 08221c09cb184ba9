"""The worker: serves one mount, and ends with it.

Started by the daemon as `python -m fusevol.daemon.worker FD`, FD being its end of the channel. If
the daemon dies, the worker goes on until the file system is unmounted: clients come first.
"""

import gc
import logging
import signal
import socket
import sys
from typing import Final

import trio

from fusevol.config import MountConfig
from fusevol.daemon.channel import Failed, Prepared, Serving, pack, receive_init
from fusevol.daemon.encoding import decode
from fusevol.errors import FusevolError
from fusevol.fuse.init import Flag
from fusevol.fuse.session import Session

_MESSAGE_BYTES: Final = 1 << 16

logger = logging.getLogger(__name__)


def main(channel_fd: int) -> None:
    """Serve the mount that the daemon describes on the channel, until it is unmounted."""
    logging.basicConfig(format="fusevol: %(levelname)s: %(message)s", stream=sys.stderr)
    channel = socket.socket(fileno=channel_fd)
    config: MountConfig = decode(channel.recv(_MESSAGE_BYTES), MountConfig)
    try:
        session = Session(config)
    except FusevolError as error:
        channel.send(pack(Failed(type(error).__name__, str(error))))
        return
    channel.send(pack(Prepared(session.single_file)))
    try:
        init, fuse_fd = receive_init(channel)
    except EOFError:
        return  # the daemon could not mount, and says so itself
    _keep_garbage_collection_rare()

    def started(flags: Flag) -> None:
        channel.send(pack(Serving(int(flags))))

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(_reopen_log_on_hangup, session)
            await session.serve(fuse_fd, init, started)
            nursery.cancel_scope.cancel()

    try:
        trio.run(serve)
    finally:
        session.close()


async def _reopen_log_on_hangup(
    session: Session, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as hangups:
        task_status.started()
        async for _ in hangups:
            session.reopen_log()


def _keep_garbage_collection_rare() -> None:
    """Requests leave no cycles behind, and a collection walks a million inodes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)


if __name__ == "__main__":
    main(int(sys.argv[1]))
