"""The terminal of a container, and the caller's, which shows it.

The runtime makes the container's and sends it by a socket (runc, docs/terminals.md). What the
caller types goes there unchanged: its own terminal is raw meanwhile, so that ^C, too, is the
container's.
"""

import array
import contextlib
import fcntl
import os
import select
import signal
import socket
import termios
import tty
from collections.abc import Iterator
from typing import Final

_CHUNK_BYTES: Final = 1 << 16
_IN: Final = 0
_OUT: Final = 1


class Terminal:
    """Shows the terminal of one container. To be closed.

    Attributes:
        path: socket that gets the container's terminal.
    """

    def __init__(self, path: str, interactive: bool) -> None:
        """Listen for the container's terminal.

        Args:
            path: socket to make.
            interactive: what the caller types goes to the container.
        """
        self.path = path
        self._interactive = interactive
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.bind(path)
        self._socket.listen(1)
        self._terminal = -1
        self._shows = False
        self._typed = b""

    def close(self) -> None:
        """Stop."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._socket.close()
        if self._terminal >= 0:
            os.close(self._terminal)

    def show_until(self, end: int) -> None:
        """Pass on what is written and typed, until `end`, a descriptor, can be read."""
        with _raw(self._interactive), self._following_size():
            while end not in (ready := self._ready(end)):
                for fd in ready:
                    self._act(fd)
            # What the command wrote last.
            while self._shows and select.select([self._terminal], [], [], 0)[0]:
                self._show()

    def _ready(self, end: int) -> list[int]:
        """Wait until something can be done; return the descriptors to do it with."""
        reading = [end]
        if self._terminal < 0:
            reading.append(self._socket.fileno())
        elif self._shows:
            reading.append(self._terminal)
            if self._interactive and not self._typed:
                reading.append(_IN)
        writing = [self._terminal] if self._typed and self._shows else []
        ready, writable, _ = select.select(reading, writing, [])
        if writable:
            self._typed = self._typed[os.write(self._terminal, self._typed) :]
        return ready

    def _act(self, fd: int) -> None:
        if fd == self._terminal:
            self._show()
        elif fd == _IN:
            self._type()
        else:
            self._receive()

    def _receive(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            _message, fds, _flags, _address = socket.recv_fds(connection, _CHUNK_BYTES, 1)
        if fds:
            self._terminal = fds[0]
            self._shows = True
            os.set_inheritable(self._terminal, False)
            os.set_blocking(self._terminal, False)
            self._fit()

    def _type(self) -> None:
        self._typed = os.read(_IN, _CHUNK_BYTES)
        if not self._typed:
            self._interactive = False
            # What ^D at the begin of a line says.
            self._typed = termios.tcgetattr(self._terminal)[6][termios.VEOF]

    def _show(self) -> None:
        try:
            written = os.read(self._terminal, _CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            # EIO: nobody in the container has it open any more.
            self._shows = False
            return
        while written:
            written = written[os.write(_OUT, written) :]

    @contextlib.contextmanager
    def _following_size(self) -> Iterator[None]:
        before = signal.signal(signal.SIGWINCH, lambda _number, _frame: self._fit())
        try:
            yield
        finally:
            signal.signal(signal.SIGWINCH, before)

    def _fit(self) -> None:
        """Give the container's terminal the size of the caller's."""
        size = array.array("H", (0, 0, 0, 0))
        with contextlib.suppress(OSError):
            fcntl.ioctl(_OUT, termios.TIOCGWINSZ, size)
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)


@contextlib.contextmanager
def _raw(wanted: bool) -> Iterator[None]:
    """Have the caller's terminal pass on each key inside the block, if it is one."""
    if not wanted or not os.isatty(_IN):
        yield
        return
    before = termios.tcgetattr(_IN)
    # What was typed already stays.
    tty.setraw(_IN, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(_IN, termios.TCSADRAIN, before)
