"""The lines of a log file, forwards and backwards, in bounded memory.

Knows nothing of records. A line longer than `MAX_LINE_BYTES` is cut, but to something that is still
longer than that.
"""

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Self, cast

from fusevol.errors import FusevolError, NotFoundError, NotPermittedError
from fusevol.record.bounds import LONGEST_LINE_BYTES

if TYPE_CHECKING:
    import io

STDIN: Final = "-"

MAX_LINE_BYTES: Final = 16 * LONGEST_LINE_BYTES
"""What readers take for a line: logs that were begun before records had a bound hold long ones."""

_BLOCK_BYTES: Final = 256 * 1024


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Raise an error that says why the log at `path` cannot be opened or read.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: instead of the OSError.
    """
    what = f"cannot read access log {path}"
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError(f"{what}: no such file; check the name") from None
    except PermissionError:
        raise NotPermittedError(
            f"{what}: permission denied; run as root or as the user who mounted the volume"
        ) from None
    except IsADirectoryError:
        raise FusevolError(f"{what}: it is a directory; name a file") from None
    except OSError as error:
        raise FusevolError(f"{what}: {error.strerror}; check the disk it is on") from None


def is_file(path: str) -> bool:
    """Return whether a log can be read at any place, unlike standard input ("-") or a pipe.

    Raises:
        NotFoundError, NotPermittedError: there is no such file, or it cannot be reached.
    """
    with explained(path):
        return path != STDIN and stat.S_ISREG(os.stat(path).st_mode)


def blocks_of_lines(path: str) -> Iterator[list[bytes]]:
    """Yield the lines of a file, a pipe or standard input ("-"), many at a time.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: it cannot be read.
    """
    with contextlib.ExitStack() as stack:
        if path == STDIN:
            # Whatever stands for the file: tests and other callers replace sys.stdin.
            read = cast("io.BufferedReader", sys.stdin.buffer).read1
        else:
            with explained(path):
                read = stack.enter_context(open(path, "rb")).read1
        rest = b""
        while True:
            with explained(path):
                block = read(_BLOCK_BYTES)
            if not block:
                break
            lines = block.split(b"\n")
            lines[0] = rest + lines[0]
            rest = lines.pop()[: MAX_LINE_BYTES + 1]
            yield lines
        yield [rest]


class LogFile:
    """A regular file, open for reading at any place.

    Every method raises NotFoundError, NotPermittedError or FusevolError if the file cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with explained(path):
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def stat(self) -> os.stat_result:
        return os.fstat(self._fd)

    def read_at(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes, fewer at the end of the file."""
        with explained(self.path):
            return os.pread(self._fd, length, offset)

    def lines_backwards(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, line) from the last to the first.

        The first one is what follows the last newline, usually nothing.
        """
        position = self.stat().st_size
        tail = b""
        while position > 0:
            length = min(_BLOCK_BYTES, position)
            position -= length
            block = self.read_at(position, length) + tail
            end = len(block)
            while (newline := block.rfind(b"\n", 0, end)) >= 0:
                yield position + newline + 1, block[newline + 1 : end]
                end = newline
            tail = block[: min(end, MAX_LINE_BYTES + 1)]
        yield 0, tail

    def newlines_before(self, offset: int) -> int:
        """Return how many newlines stand before `offset`; reads all of that."""
        return sum(
            self.read_at(start, min(_BLOCK_BYTES, offset - start)).count(b"\n")
            for start in range(0, offset, _BLOCK_BYTES)
        )
