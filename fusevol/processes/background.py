"""Running the daemon in the background, and telling the caller when it is ready."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import Final, NoReturn

from fusevol.errors import FusevolError
from fusevol.linux.files import remove_if_empty
from fusevol.mounts.encoding import decode, encode
from fusevol.processes.channel import Failed

_BYTES: Final = 1 << 16


def start(run: Callable[[Callable[[], None]], int], messages: str) -> int:
    """Run `run` in a process of its own; return its id when it calls the `ready` it is given.

    Args:
        run: gets `ready`; its result is the exit status of the new process.
        messages: file that gets what the new process writes to stderr.

    Raises:
        FusevolError: what `run` raised before it was ready.
    """
    receiving, sending = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(receiving)
        _become_daemon(run, sending, messages)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        said = pipe.read(_BYTES)
    if not said:
        raise FusevolError(f"the daemon ended before it was ready; see {messages}")
    if said != b"ready":
        raise decode(said, Failed).error()
    return pid


def _become_daemon(
    run: Callable[[Callable[[], None]], int], sending: int, messages: str
) -> NoReturn:
    os.setsid()
    os.chdir("/")
    _use_as_standard_files(new_file(messages))
    _close_all_but(0, 1, 2, sending)

    def ready() -> None:
        os.write(sending, b"ready")
        os.close(sending)

    status = 1
    try:
        status = run(ready)
    except FusevolError as error:
        os.write(sending, encode(Failed.of(error)))
    except BaseException:
        logging.getLogger(__name__).exception("the daemon failed")
    finally:
        remove_if_empty(messages)
        os._exit(status)


def new_file(path: str) -> int:
    """Put a new, empty file at `path`, whatever stood there, and return its descriptor."""
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.rename(temporary, path)
    return fd


def _use_as_standard_files(messages: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd, source in ((0, null), (1, null), (2, messages)):
        os.dup2(source, fd)


def _close_all_but(*kept: int) -> None:
    """Close what was inherited: it may keep a pipe of the caller, or a mount, in use."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
