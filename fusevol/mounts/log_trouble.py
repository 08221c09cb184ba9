"""What `fusevol status` and `fusevol reload --logs` say about a log that is in trouble.

Read from the recovery state: nothing is asked of a worker, which may hang.
"""

import os
from collections.abc import Iterator

from fusevol.errors import FusevolError
from fusevol.mounts import registry
from fusevol.record.times import Timestamps
from fusevol.recording.log_file import why_not
from fusevol.recovery import log_trouble
from fusevol.recovery.log_trouble import LogTrouble


def of(served: registry.MountEntry) -> LogTrouble | None:
    """Return the state of a mount's log; None if it is not known."""
    fd = registry.open_state(served)
    if fd < 0:
        return None
    try:
        return log_trouble.read(fd)
    except FusevolError:
        return None  # It was mounted by another version.
    finally:
        os.close(fd)


def why_not_opened(log: str, trouble: LogTrouble) -> str:
    """Return why a log could not be reopened, and what that means."""
    means = (
        "records are not in any file" if trouble.is_nameless else "records still go to the old file"
    )
    return f"{why_not(log, trouble.fault)}; {means}"


def in_words(served: registry.MountEntry) -> str:
    """Return what is wrong with a mount's log, and what happens to its records; "" for nothing."""
    trouble = of(served)
    return "; ".join(_words(served.log, trouble)) if trouble is not None else ""


def _words(log: str, trouble: LogTrouble) -> Iterator[str]:
    times = Timestamps()
    if trouble.untold:
        since = f" since {times.of(trouble.since_ns)}" if trouble.since_ns else ""
        why = f" ({os.strerror(trouble.errno)})" if trouble.errno else ""
        yield f"{trouble.untold} operations were not recorded{since}{why}"
    if trouble.fault:
        yield why_not_opened(log, trouble)
    if trouble.deleted_ns:
        when = times.of(trouble.deleted_ns)
        rest = "" if trouble.is_nameless else "; a new file was started"
        yield f"the log was deleted while in use, noticed {when}{rest}"
