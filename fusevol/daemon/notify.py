"""Telling systemd how things are (sd_notify(3))."""

import os
import socket


def notify(state: str) -> None:
    """Send `state`, for example "READY=1", to the service manager, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(state.encode(), address)
        except OSError:
            # A service manager that is gone is no reason to stop serving.
            return
