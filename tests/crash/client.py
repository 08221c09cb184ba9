"""One process of the storm: its calls are timed, checked, and written down."""

import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from fusevol.names import encode_name
from fusevol.record.record import OK, errno_name
from tests.crash.account import Account, Done

STALLED_S: Final = 20.0
"""No call may take longer, whatever is killed meanwhile."""


class MismatchError(AssertionError):
    """Something else happened than has to on a file system that works."""

    def __init__(self, op: str, path: str, expected: object, got: object) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        super().__init__(f"{now} {op} {path}: expected {expected}, got {got}")


class Client:
    """Makes system calls below a volume.

    Attributes:
        number: tells the clients of one storm apart.
        root: the volume; paths are absolute, and start with it.
        rng: the source of all that is random.
    """

    def __init__(self, number: int, root: str, rng: random.Random, account: Account) -> None:
        self.number = number
        self.root = root
        self.rng = rng
        self._account = account

    def attempt(
        self, op: str, path: str, call: Callable[..., Any], *arguments: Any,
        more: str | None = None, size: int | None = None, **keywords: Any,
    ) -> tuple[str, Any]:  # fmt: skip
        """Make a call; return "ok" and its value, or the name of its errno and None.

        Args:
            op: what the access log calls it.
            more: as in `Done`; a path is absolute.
            size: that of a read or write.
        """
        result, value = OK, None
        start = time.monotonic()
        try:
            value = call(*arguments, **keywords)
        except OSError as error:
            result = errno_name(error.errno or 0)
        end = time.monotonic()
        if more is not None:
            more = self._inside(more)
        self._account.write(Done(op, self._inside(path), more, result, size, start, end))
        if end - start > STALLED_S:
            raise MismatchError(op, path, f"an answer in {STALLED_S} s", f"{end - start:.1f} s")
        return result, value

    def call(
        self, op: str, path: str, call: Callable[..., Any], *arguments: Any,
        expected: str = OK, **keywords: Any,
    ) -> Any:  # fmt: skip
        """Make a call that has to end as expected; return its value.

        Raises:
            MismatchError: it ended otherwise.
        """
        result, value = self.attempt(op, path, call, *arguments, **keywords)
        if result != expected:
            raise MismatchError(op, path, expected, result)
        return value

    def mkdir(self, path: str) -> None:
        """mkdir(2), which has to succeed."""
        self.call("mkdir", path, os.mkdir, path)

    def create(self, path: str) -> int:
        """Make a file, which has to be new; return its descriptor for reading and writing."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        fd: int = self.call("create", path, os.open, path, flags, 0o644)
        return fd

    def write(self, fd: int, path: str, content: bytes) -> None:
        """write(2), which has to take everything."""
        self.same("write", path, len(content),
                  self.call("write", path, os.write, fd, content, size=len(content)))  # fmt: skip

    def content_of(self, path: str) -> bytes:
        """Return what is in a file."""
        fd = self.call("open", path, os.open, path, os.O_RDONLY)
        with open(fd, "rb") as file:
            content: bytes = self.call("read it all", path, file.read)
        return content

    def same(self, op: str, path: str, expected: object, got: object) -> None:
        """Check what a call gave.

        Raises:
            MismatchError: it is not what was expected.
        """
        if got != expected:
            raise MismatchError(op, path, _short(expected), _short(got))

    def close(self) -> None:
        self._account.close()

    def _inside(self, path: str) -> str:
        return encode_name(os.fsencode(path[len(self.root) :] if path[:1] == "/" else path))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 400 else f"{text[:200]}...{text[-180:]} ({len(text)} characters)"
