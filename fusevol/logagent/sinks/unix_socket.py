"""Handing data over to a process on this host, without waiting longer than one is ready to.

A socket reports how much of what was sent its receiver has not read yet. What was read before the
receiver closed its end has arrived; what was not is gone with it, and is to be sent again.
"""

import array
import errno
import fcntl
import os
import select
import socket
import termios
import time
from typing import Final, Protocol

_BLOCK_BYTES: Final = 64 * 1024
_PIPE_BYTES: Final = select.PIPE_BUF
"""What a pipe or terminal that is ready takes without making its writer wait (pipe(7))."""
_SHORTEST_LOOK_S: Final = 0.0002
_LONGEST_LOOK_S: Final = 0.01
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class SinkConnection(Protocol):
    """A way to one receiver. One thread only. Deadlines are times of time.monotonic()."""

    def put(self, data: bytes, deadline: float) -> bool:
        """Take one entry; return False if there was no room for it in time.

        Raises:
            OSError: the receiver is gone; what it has not read has to be sent again.
        """
        ...

    def is_read(self, deadline: float) -> bool:
        """Wait until the receiver has read all that was put; return False if it has not in time.

        Raises:
            OSError: as above.
        """
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Datagrams:
    """A socket of datagrams at a path; one entry each."""

    def __init__(self, path: str) -> None:
        """Connect; OSError if nobody listens there."""
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect(path)
            self._receiver = self._identity()
        except OSError as error:
            self._socket.close()
            raise _of(error, path) from None

    def put(self, data: bytes, deadline: float) -> bool:
        while True:
            try:
                self._send(data)
            except BlockingIOError:
                if not _wait_for_room(self._socket.fileno(), deadline):
                    return False
            except OSError as error:
                raise _of(error, self._path) from None
            else:
                return True

    def is_read(self, deadline: float) -> bool:
        if not _wait_until_read(self._socket, deadline):
            return False
        # What a receiver leaves unread looks like read when it ends: so it has to live yet.
        try:
            self._socket.connect(self._path)
            if self._identity() != self._receiver:
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        except OSError as error:
            raise _of(error, self._path) from None
        return True

    def close(self) -> None:
        self._socket.close()

    def _identity(self) -> tuple[int, int, int]:
        # With the time, as the number of what was removed may be given to the next.
        status = os.stat(self._path)
        return status.st_dev, status.st_ino, status.st_mtime_ns

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_in_memory(data)

    def _send_in_memory(self, data: bytes) -> None:
        """Send what no datagram holds as the descriptor of a memory that nobody changes any more.

        The way of journald's protocol; messages to syslog are never that long.
        """
        memory = os.memfd_create("fusevol-record", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(memory, "wb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
            descriptors = array.array("i", [memory])
            self._socket.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])


class _Buffered:
    """What puts entries that end by themselves one behind the other."""

    def __init__(self) -> None:
        self._unsent = b""

    def put(self, data: bytes, deadline: float) -> bool:
        if len(self._unsent) >= _BLOCK_BYTES and not self._flush(deadline):
            return False
        self._unsent += data
        return True

    def _flush(self, deadline: float) -> bool:
        while self._unsent:
            if not _wait_for_room(self._fileno(), deadline):
                return False
            try:
                self._unsent = self._unsent[self._write() :]
            except BlockingIOError:
                pass
        return True

    def _fileno(self) -> int:
        raise NotImplementedError

    def _write(self) -> int:
        """Write what goes without waiting; return how many bytes that was."""
        raise NotImplementedError


class Stream(_Buffered):
    """A connection to a listening stream socket at a path."""

    def __init__(self, path: str) -> None:
        """Connect; OSError if nobody listens there, or too many wait already."""
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise _of(error, path) from None

    def is_read(self, deadline: float) -> bool:
        return self._flush(deadline) and self._is_received(deadline)

    def close(self) -> None:
        self._socket.close()

    def _is_received(self, deadline: float) -> bool:
        is_read = _wait_until_read(self._socket, deadline)
        poll = select.poll()
        # POLLHUP comes unasked, and not where a receiver has but said that it will not answer.
        poll.register(self._socket, 0)
        if not poll.poll(0):
            return is_read
        try:
            # The end of a receiver that had read all is an end; else it is ECONNRESET (unix(7)).
            while self._socket.recv(_BLOCK_BYTES):
                pass
        except OSError as error:
            raise _of(error, self._path) from None
        return True

    def _fileno(self) -> int:
        return self._socket.fileno()

    def _write(self) -> int:
        try:
            return self._socket.send(self._unsent)
        except OSError as error:
            raise _of(error, self._path) from None


class DescriptorSink(_Buffered):
    """A descriptor of somebody else, such as standard output: a pipe, a terminal, a file.

    What is written counts as read. Others may use the descriptor, too: it stays as it is, and whole
    lines are written in one go where a pipe allows that.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = os.dup(fd)

    def is_read(self, deadline: float) -> bool:
        return self._flush(deadline)

    def close(self) -> None:
        os.close(self._fd)

    def _fileno(self) -> int:
        return self._fd

    def _write(self) -> int:
        end = self._unsent.rfind(b"\n", 0, _PIPE_BYTES) + 1
        return os.write(self._fd, self._unsent[: end or _PIPE_BYTES])


def _wait_for_room(fd: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _wait_until_read(sock: socket.socket, deadline: float) -> bool:
    """Wait for the receiver, which nothing but looking again can do."""
    wait_s = _SHORTEST_LOOK_S
    while _unread(sock):
        if time.monotonic() >= deadline:
            return False
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, _LONGEST_LOOK_S)
    return True


def _unread(sock: socket.socket) -> int:
    """Return the bytes of memory in the receiver's queue (SIOCOUTQ, unix(7))."""
    count = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, count)
    return count[0]


def _of(error: OSError, path: str) -> OSError:
    return OSError(error.errno, error.strerror, path)
