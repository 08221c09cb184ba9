"""Starting the keeper of a mount, after the checks that every mount passes."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from fusevol.linux.process import start_ticks
from fusevol.mounts.mount_lock import alone_at
from fusevol.mounts.preflight import check, check_unserved
from fusevol.options.config import MountConfig, log_directory
from fusevol.processes import former, handover
from fusevol.processes.channel import BYTES, Mounted, Start, pack, unpack


def obtain(config: MountConfig, messages: str) -> bool:
    """Have it mounted, to be kept in the background; return when the mount answers.

    Args:
        messages: file that gets what the keeper and the workers say.

    Returns:
        Whether the mount is new; what was unmounted and lives on elsewhere is only put back.

    Raises:
        FusevolError: it could not be mounted, and why.
    """
    if former.put_back(config) is not None:
        return False
    start(config, messages)
    return True


def start(
    config: MountConfig,
    messages: str | None = None,
    owner: int = 0,
    *,
    is_name_shared: bool = False,
) -> "subprocess.Popen[bytes]":
    """Check and mount, and return the keeper when the mount answers.

    Args:
        config: what is wanted.
        messages: file that gets what the keeper and the workers say; None for stderr.
        owner: process with which the mount ends, 0 for none.
        is_name_shared: see `preflight.check`.

    Raises:
        FusevolError: it could not be mounted, and why. Nothing is left behind.
    """
    prepare(config, is_name_shared=is_name_shared)
    former.await_end(config.log)
    with alone_at(config.mountpoint):
        # Another may have been quicker since the checks.
        check_unserved(config.mountpoint)
        return _start(config, messages, owner)


def prepare(config: MountConfig, *, is_name_shared: bool = False) -> None:
    """Check it, and make the directory of its log if that is fusevol's own.

    Raises:
        FusevolError: it cannot be mounted, and why.
    """
    check(config, is_name_shared=is_name_shared)
    if os.path.dirname(config.log) == log_directory():
        os.makedirs(log_directory(), mode=0o700, exist_ok=True)


def _start(config: MountConfig, messages: str | None, owner: int) -> "subprocess.Popen[bytes]":
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs, _opened(messages) as file:
            process = _spawn(theirs, file)
        ours.send(pack(Start(config, owner, start_ticks(owner) if owner else 0)))
        try:
            unpack(ours.recv(BYTES), Mounted)
        except BaseException:
            ours.close()
            process.terminate()
            process.wait()
            raise
    return process


def _spawn(channel: socket.socket, messages: int | None = None) -> "subprocess.Popen[bytes]":
    """Start a keeper with its end of a channel.

    Args:
        messages: descriptor of the file that gets what it says; it then has no terminal.
    """
    output = None if messages is None else subprocess.DEVNULL
    return subprocess.Popen(
        [*handover.command(), str(channel.fileno())], pass_fds=(channel.fileno(),),
        stdin=subprocess.DEVNULL, stdout=output, stderr=messages, start_new_session=True, cwd="/",
    )  # fmt: skip


@contextmanager
def _opened(messages: str | None) -> Iterator[int | None]:
    if messages is None:
        yield None
        return
    fd = _new_file(messages)
    try:
        yield fd
    finally:
        os.close(fd)


def _new_file(path: str) -> int:
    """Put a new, empty file at `path`, whatever stood there, and return its descriptor."""
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.rename(temporary, path)
    return fd
