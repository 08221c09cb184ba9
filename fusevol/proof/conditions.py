"""What has to be the case for a log to be chained."""

import contextlib

from fusevol.errors import NotFoundError, UsageError
from fusevol.options.config import NO_LOG, STDOUT_LOG
from fusevol.options.log import LogFormat, LogOptions
from fusevol.proof.keys import load, require_signing


def check(options: LogOptions, log: str) -> None:
    """Check whether a log with these options can be chained, if it is to be.

    Raises:
        UsageError: its format, or where it goes, does not allow for it.
        UnsupportedError: the package that signs is missing.
        NotPermittedError, FusevolError: others could know the key, or it cannot be read.
    """
    if not options.chain:
        return
    if options.format is not LogFormat.JSON:
        raise UsageError(f"chain requires format=json, as {options.format} has no place for a hash")
    if log in (NO_LOG, STDOUT_LOG):
        raise UsageError(f"chain requires a file for the log, not {log}")
    require_signing()
    with contextlib.suppress(NotFoundError):
        load()
