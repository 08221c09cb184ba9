"""What is known of a log besides its files: a small file in the state directory.

    STATE/logs/ID.numbers       ID stands for the path of the log

So numbers continue whatever becomes of the files, and a loss is reported even if the mount ends
before the log can be written again. It is written by one pwrite(2) in place, which needs no room on
the disk that it does not have already: with each lost operation, and with records a few times a
second. So it may be older than the log; then the log counts. It is not a mapped file: on btrfs a
store to one kills the process (SIGBUS) when the disk is full, whether its room was allocated before
or not.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import struct
from typing import Final, NamedTuple, Self

from fusevol.names import encode_name
from fusevol.options.config import state_directory

logger = logging.getLogger(__name__)

_LAYOUT: Final = struct.Struct("<8s5Q32s")
_MAGIC: Final = b"fvlog\0\0\1"
"""Its last byte is the version of the layout."""
_BYTES: Final = 512
_PATH_AT: Final = 128

# From linux/fs.h.
_FS_IOC_SETFLAGS: Final = 0x40086602
_FS_NOCOW_FL: Final = 0x00800000


class Known(NamedTuple):
    """What is known of a log.

    Attributes:
        seq: number of the newest record, 0 if there was none.
        first: number of the first record in the file that it is in.
        lost: operations that no record and no `gap` reports.
        errno: why; 0 if that is not known.
        since_ns: when the first of them was, in nanoseconds since 1970; 0 if that is not known.
        hash: of the newest record, if the log is chained; else empty.
    """

    seq: int = 0
    first: int = 0
    lost: int = 0
    errno: int = 0
    since_ns: int = 0
    hash: bytes = b""


class LogState:
    """The file of one log, for its only writer.

    Attributes:
        fd: of the file; -1 if there is none, as it cannot be written: nothing is kept then.
    """

    def __init__(self, log: str, fd: int) -> None:
        self._log = log
        self._failed = False
        self.fd = fd

    @classmethod
    def open(cls, log: str, fd: int = -1) -> Self:
        """Open what is kept of the log at a path, or go on with an open descriptor of it.

        Raises:
            BlockingIOError: another mount writes to the log.
        """
        if fd >= 0:
            return cls(log, fd)
        try:
            fd = _opened(os.path.realpath(log))
        except BlockingIOError:
            raise
        except OSError as error:
            logger.warning(
                "the state of access log %s cannot be saved in %s (%s): if its files are moved "
                "away, its numbers start over, and records lost at the end of the mount are not "
                "reported in it",
                log, directory(), error.strerror,
            )  # fmt: skip
        return cls(log, fd)

    @classmethod
    def none(cls, log: str) -> Self:
        """Return that of a log that is not a file, of which nothing is kept."""
        return cls(log, -1)

    def load(self) -> Known:
        """Return what was saved last; nothing if that is not known."""
        if self.fd < 0:
            return Known()
        content = b""
        with contextlib.suppress(OSError):
            content = os.pread(self.fd, _LAYOUT.size, 0)
        if len(content) < _LAYOUT.size or content.strip(b"\0") == b"":
            return Known()
        magic, seq, first, lost, number, since_ns, digits = _LAYOUT.unpack(content)
        if magic != _MAGIC:
            logger.warning("the saved state of access log %s is damaged and is ignored", self._log)
            return Known()
        return Known(seq, first, lost, number, since_ns, digits.rstrip(b"\0"))

    def save(self, known: Known) -> None:
        """Keep what is known from now on; says so if that fails."""
        if self.fd < 0:
            return
        try:
            os.pwrite(self.fd, _LAYOUT.pack(_MAGIC, *known), 0)
        except OSError as error:
            if not self._failed:
                logger.warning(
                    "the state of access log %s cannot be saved in %s (%s); retrying",
                    self._log, directory(), error.strerror,
                )  # fmt: skip
            self._failed = True
        else:
            self._failed = False

    def close(self) -> None:
        """Let another mount write to the log."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def known_of(log: str) -> Known:
    """Return what was kept last of the log at a path, whoever writes to it; nothing if unknown."""
    try:
        fd = os.open(_path(os.path.realpath(log)), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return Known()
    state = LogState(log, fd)
    try:
        return state.load()
    finally:
        state.close()


def directory() -> str:
    """Return where what is known of logs is kept."""
    return os.path.join(state_directory(), "logs")


def _path(log: str) -> str:
    name = f"{hashlib.sha256(os.fsencode(log)).hexdigest()[:32]}.numbers"
    return os.path.join(directory(), name)


def _opened(log: str) -> int:
    """Return a descriptor of a file that is locked and has its room."""
    os.makedirs(directory(), mode=0o700, exist_ok=True)
    text = encode_name(os.fsencode(log)).encode()
    fd = os.open(_path(log), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_size < _BYTES:
            _overwrite_in_place(fd)
            os.pwrite(fd, bytes(_BYTES), 0)
        # For who looks at the file.
        os.pwrite(fd, text[: _BYTES - _PATH_AT], _PATH_AT)
    except OSError:
        os.close(fd)
        raise
    return fd


def _overwrite_in_place(fd: int) -> None:
    """Have btrfs write changes of an empty file where they belong, so that they need no room."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("l", _FS_NOCOW_FL))
