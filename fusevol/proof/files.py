"""The files of a chained log, in the order of their records.

An attacker may change the first record of a file, too. So order and volume of a file are
taken from what most of its first records say.
"""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import Final

from fusevol.logs.compression import DamagedError
from fusevol.logs.log_files import is_copy, most, parts_of_log, rotated
from fusevol.logs.sections import Section, opened
from fusevol.record.links import seq_of

_SAMPLED: Final = 7
_VOLUME: Final = re.compile(rb',"volume":("(?:[^"\\]|\\.)*"),')


@dataclass
class _ChainFile:
    """One file.

    Attributes:
        start: number that its first record should have, None if it has no record.
        volume: the name, in JSON.
    """

    path: str
    sections: list[Section] = field(default_factory=list)
    start: int | None = None
    volume: bytes | None = None

    def sample(self) -> None:
        """Look at the first records."""
        with contextlib.suppress(DamagedError):
            lines = next(self.sections[0].blocks(), b"").split(b"\n")[:_SAMPLED]
            numbers = [(index, seq_of(line)) for index, line in enumerate(lines)]
            starts = [seq - index for index, seq in numbers if seq is not None]
            self.start = median_low(starts) if starts else None
            self.volume = most(found[1] for line in lines if (found := _VOLUME.search(line)))


@contextlib.contextmanager
def in_order(paths: Sequence[str], *, with_rotated: bool) -> Iterator[list[Section]]:
    """Open a log; give out its sections, in the order of their records, as long as it is open.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: one of its files cannot be read.
    """
    given = set(paths)
    older = {path: rotated(path) for path in paths} if with_rotated else {}
    found = set(itertools.chain.from_iterable(older.values()))
    if found:
        # It may have been renamed, and the new one not be there yet.
        paths = [path for path in paths if os.path.exists(path)]
    # One that is just being compressed is there twice.
    found = {path for path in found if not is_copy(path, found)}
    with opened([*paths, *sorted(found)], with_rotated=False) as sections:
        files: dict[str, _ChainFile] = {}
        for section in sections:
            files.setdefault(section.path, _ChainFile(section.path)).sections.append(section)
        for file in files.values():
            file.sample()
        chosen = [file for path, file in files.items() if path in given]
        for log, names in older.items():
            mine = [files[name] for name in names if name in files and files[name] not in chosen]
            chosen += parts_of_log(log, files.get(log), mine)
        chosen.sort(key=lambda file: (file.start is None, file.start or 0, file.path))
        yield [section for file in chosen for section in file.sections]
