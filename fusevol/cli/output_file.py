"""Where a command puts what it has made: a file that is whole or not there, or standard output."""

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

from fusevol.errors import FusevolError, UsageError

STDOUT: Final = "-"


def check_output(path: str, sources: Sequence[str]) -> None:
    """Find out, before the work is done, whether its result can be put at `path`.

    Raises:
        UsageError: something is there that must not be replaced, one of `sources` for instance.
    """
    if path == STDOUT:
        return
    try:
        status = os.stat(path)
    except OSError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"-o {path} is not a regular file; use -o - and redirect the output")
    for source in sources:
        if os.path.exists(source) and os.path.samestat(status, os.stat(source)):
            raise UsageError(f"-o {path} is the log itself; choose another file")


@contextlib.contextmanager
def output_file(path: str) -> Iterator[BinaryIO]:
    """Open what becomes the file at `path`, for its owner only, once all of it is written.

    Raises:
        FusevolError: it cannot be written there.
    """
    if path == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = os.path.realpath(path)
    try:
        fd, temporary = tempfile.mkstemp(prefix=".fusevol-", dir=os.path.dirname(target))
    except OSError as error:
        raise FusevolError(f"cannot write {path}: {error.strerror}; choose another file") from None
    try:
        with open(fd, "wb") as file:
            yield file
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
