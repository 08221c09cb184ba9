"""Records the coalesced runs of a worker without a successor: its mount has ended.

Reads nothing but the recovery state: the source may hang.
"""

import os
from typing import TYPE_CHECKING

from fusevol.inodes.table import ROOT_INO
from fusevol.names import encode_name
from fusevol.record.bounds import path_text
from fusevol.recording.coalescing import Coalescer
from fusevol.recovery.coalesced_runs import RunEntries
from fusevol.recovery.counters import Counters
from fusevol.recovery.nodes import NodeEntries

if TYPE_CHECKING:
    from fusevol.recording.writer import LogWriter
    from fusevol.recovery.region import Region


def record_orphaned_runs(region: "Region", log: "LogWriter", volume: str) -> None:
    """Write the records of all runs that are left.

    Args:
        volume: its name.
    """
    entries = RunEntries(region)
    runs = entries.pending(log.next_seq - 1)
    if not runs:
        return
    coalescer = Coalescer(log, Counters(region), entries, 0.0, lambda: None)
    nodes = NodeEntries(region)
    places = nodes.load()
    for run in runs:
        path = _path_of(nodes, places, run.opened.ino)
        coalescer.tell(run, encode_name(os.fsencode(volume)), path)


def _path_of(nodes: NodeEntries, places: dict[int, int], ino: int) -> str | None:
    """Return the path of an inode by the names that stand in the state; None if one is missing."""
    names: list[bytes] = []
    while ino != ROOT_INO:
        at = places.get(ino)
        if at is None or len(names) == len(places):
            return None
        node = nodes.read(at)
        names.append(node.name)
        ino = node.parent
    return path_text(names[::-1])
