"""`fusevol serve`: one daemon for many volumes, from its first to its last moment."""

import fcntl
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import trio

from fusevol.errors import FusevolError
from fusevol.linux.systemd import notify, passed_descriptors
from fusevol.mounts.registry import runtime_directory
from fusevol.server import control, control_server
from fusevol.server.settings import Settings
from fusevol.server.volumes import Volumes

logger = logging.getLogger(__name__)


class Front(Protocol):
    """Something else that makes volumes available, such as the plugin."""

    async def __call__(self, volumes: Volumes, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled; `task_status` is started when it does."""


async def serve(
    settings: Settings, fronts: Sequence[Front], reread: Callable[[], Settings]
) -> None:
    """Serve volumes until SIGTERM or SIGINT.

    Nothing is accepted before all that earlier daemons left is known: Docker takes an answer that
    a volume does not exist for the last word.

    Args:
        settings: the configuration.
        fronts: what else to run.
        reread: reads the configuration again, after SIGHUP.

    Raises:
        FusevolError: another daemon runs, the state cannot be read, or a socket cannot be made.
    """
    lock = _lock()
    try:
        await _serve(settings, fronts, reread)
    except BaseExceptionGroup as group:
        raise _cause(group) from None
    finally:
        os.close(lock)


async def _serve(
    settings: Settings, fronts: Sequence[Front], reread: Callable[[], Settings]
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as workers:
            volumes = Volumes(settings, workers)
            await volumes.load()
            async with trio.open_nursery() as nursery:
                listener = control_server.listen(control.socket_path())
                nursery.start_soon(control_server.serve, volumes, listener)
                for front in fronts:
                    await nursery.start(front, volumes)
                nursery.start_soon(volumes.tend)
                notify("READY=1")
                await _obey(signals, volumes, reread)
                notify("STOPPING=1")
                nursery.cancel_scope.cancel()
            await volumes.stop()
            workers.cancel_scope.cancel()


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what one task died of, which the others were cancelled for; else the whole group."""
    errors = group.subgroup(FusevolError)
    while errors is not None:
        (first, *_) = errors.exceptions
        if isinstance(first, FusevolError):
            return first
        assert isinstance(first, BaseExceptionGroup)
        errors = first
    return group


def passed_socket(name: str, *, or_only: bool = True) -> socket.socket | None:
    """Return the listening socket that systemd passes under a name, `or_only` one that it passes.

    See sd_listen_fds_with_names(3); the socket is never to be removed from the file system.
    """
    passed = passed_descriptors()
    if or_only and name not in passed and len(passed) == 1:
        (name,) = passed
    fd = passed.pop(name, None)
    return None if fd is None else socket.socket(fileno=fd)


async def _obey(
    signals: AsyncIterator[int], volumes: Volumes, reread: Callable[[], Settings]
) -> None:
    """Follow signals until one says to stop."""
    async for number in signals:
        if number != signal.SIGHUP:
            return
        volumes.hang_up()
        try:
            await volumes.declare(reread())
        except FusevolError as error:
            logger.error("the configuration was not changed: %s", error)


def _lock() -> int:
    """Make sure that no other daemon has the same directories."""
    path = os.path.join(runtime_directory(), "serve.lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise FusevolError(
            f"fusevol serve is already running (it locks {path}); stop it first, or set another "
            f"FUSEVOL_RUNTIME_DIRECTORY and FUSEVOL_STATE_DIRECTORY"
        ) from None
    return fd
