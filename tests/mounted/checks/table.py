"""The table of what a file system has to do: name -> check.

A check gets an empty directory and raises if the file system that it is on does something wrong.
Each check runs on the host's own file system as well, where it has to pass: what fails there is a
mistake of the check.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

Run = Callable[[Path], None]


class Check(NamedTuple):
    """A check, and why it cannot pass on a mount yet, if it cannot."""

    run: Run
    lacking: str | None


CHECKS: Final[dict[str, Check]] = {}


def check(run: Run) -> Run:
    """Enter a check in the table."""
    return _enter(run, None)


def lacking(why: str) -> Callable[[Run], Run]:
    """Enter a check that is known to fail on a mount."""
    return lambda run: _enter(run, why)


def _enter(run: Run, why: str | None) -> Run:
    name = run.__name__
    assert name not in CHECKS, f"two checks are called {name}"
    CHECKS[name] = Check(run, why)
    return run


@contextmanager
def fails_with(*numbers: int) -> Iterator[None]:
    """Hold that the block raises OSError with one of the errno `numbers`."""
    names = " or ".join(errno.errorcode[number] for number in numbers)
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            got = errno.errorcode.get(error.errno or 0, str(error.errno))
            raise AssertionError(f"{got} instead of {names}") from error
    else:
        raise AssertionError(f"no error instead of {names}")


@contextmanager
def may_fail_with(*numbers: int) -> Iterator[None]:
    """Let the block end with one of the errno `numbers`; any other OSError goes on."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


@contextmanager
def opened(path: Path | str | bytes, flags: int, mode: int = 0o644) -> Iterator[int]:
    """A descriptor inside the block."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def link_descriptor(fd: int, path: Path) -> None:
    """Give the file that is open at `fd` a name."""
    with opened(path.parent, os.O_PATH) as parent:
        # link(2) follows no links; with a directory descriptor os.link calls linkat(2).
        os.link(f"/proc/self/fd/{fd}", path.name, dst_dir_fd=parent, follow_symlinks=True)
