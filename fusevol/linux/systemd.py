"""Telling systemd how things are (sd_notify(3))."""

import os
import socket
from collections.abc import Sequence
from typing import Final

_FIRST_PASSED: Final = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""


def notify(state: str, fds: Sequence[int] = ()) -> None:
    """Send `state`, for example "READY=1", and descriptors to the service manager, if any."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect(address)
            socket.send_fds(sender, [state.encode()], fds)
        except OSError:
            # A service manager that is gone is no reason to stop serving.
            return


def is_service() -> bool:
    """Return whether a service manager wants to know how things are."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


_passed: dict[str, int] | None = None


def passed_descriptors() -> dict[str, int]:
    """Return the descriptors that the service manager has started this process with, by name.

    See sd_listen_fds_with_names(3). Its user removes it from the list.
    """
    global _passed  # noqa: PLW0603  # there is one environment, too
    if _passed is None:
        _passed = {}
        if os.environ.get("LISTEN_PID") == str(os.getpid()):
            count = int(os.environ.get("LISTEN_FDS", "0"))
            names = os.environ.get("LISTEN_FDNAMES", "").split(":") + [""] * count
            for number in range(count):
                os.set_inheritable(_FIRST_PASSED + number, False)
                _passed[names[number] or str(number)] = _FIRST_PASSED + number
    return _passed
