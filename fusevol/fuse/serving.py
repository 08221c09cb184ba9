"""What the way of every request needs, put together once, when serving begins."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fusevol.fuse.caching import Caching
from fusevol.fuse.executor import Executor
from fusevol.fuse.subjects import Subjects
from fusevol.recording.caller import Callers
from fusevol.recording.finish import Finish
from fusevol.recovery.journal import Journal
from fusevol.volume.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """One mount, as its middleware and its handlers know it.

    Attributes:
        name: the volume's name in the log.
        volume: what is served.
        subjects: finds on what a request is.
        caching: decides what the kernel may keep.
        callers: who makes requests.
        journal: what is being done.
        executor: where it is done.
        identified: operations whose caller is looked up.
        recorded: operations of which there may be a record, all of them identified.
        admit: refuses an operation while its record could not be written, or None. It takes the
            number of operations that were admitted before and have no record yet.
        finish: operation -> what records and counts it.
    """

    name: str
    volume: Volume
    subjects: Subjects
    caching: Caching
    callers: Callers
    journal: Journal
    executor: Executor
    identified: frozenset[str]
    recorded: frozenset[str]
    admit: Callable[[int], None] | None
    finish: Mapping[str, Finish]
