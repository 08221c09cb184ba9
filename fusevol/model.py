"""Words that every part of fusevol shares."""

import enum
from typing import Final


class RecordLevel(enum.StrEnum):
    """How much reaches the access log, and with it which data path the kernel uses."""

    ALL = "all"
    """Every operation the kernel lets a file system see; direct I/O, nothing cached."""
    DATA = "data"
    """Opens, closes, all changes, and reads and writes as they reach the file system; names and
    attributes are cached for a second, data in the page cache."""


class OnLogFailure(enum.StrEnum):
    """What happens to an operation whose record cannot be written."""

    CONTINUE = "continue"
    """The operation goes on; losses are counted and reported by a `gap` record."""
    DENY = "deny"
    """The operation fails with EIO and has no effect."""


UNKNOWN: Final = "?"
"""Stands for a container where it could not be found out whether a process is in one."""

INVISIBLE: Final = "invisible"
"""Stands for an errno where the kernel names no process that could be looked up."""


class Caller:
    """The process behind an operation.

    Attributes:
        pid: process id in fusevol's pid namespace; 0 if it is not visible there.
        comm: its name, in the encoding of `fusevol.names`; None if unknown.
        container: full id of the container it runs in; None on the host, UNKNOWN if that could not
            be found out.
        error: name of the errno that kept it from being found out, or INVISIBLE; None if all is
            known.
    """

    __slots__ = ("comm", "container", "error", "pid")

    def __init__(
        self,
        pid: int,
        comm: str | None = None,
        container: str | None = None,
        error: str | None = None,
    ) -> None:
        self.pid = pid
        self.comm = comm
        self.container = container
        self.error = error
