"""The files of a chained log, in the order of their records.

Who changes a log may change the first record of a file, too. So order and volume of a file are
taken from what most of its first records say.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import Final

from fusevol.accesslog.chain.links import seq_of
from fusevol.accesslog.compression import DamagedError, is_compressed
from fusevol.accesslog.sections import Section, opened, rotated

_SAMPLED: Final = 7
_VOLUME: Final = re.compile(rb',"volume":("(?:[^"\\]|\\.)*"),')


@dataclass
class _File:
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
            self.volume = _most(found[1] for line in lines if (found := _VOLUME.search(line)))


@contextlib.contextmanager
def in_order(paths: Sequence[str], *, with_rotated: bool) -> Iterator[list[Section]]:
    """Open a log; give out its sections, in the order of their records, as long as it is open.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: one of its files cannot be read.
    """
    older = [name for path in paths for name in rotated(path)] if with_rotated else []
    if older:
        # It may have been renamed, and the new one not be there yet.
        paths = [path for path in paths if os.path.exists(path)]
    # One that is just being compressed is there twice.
    older = [name for name in older if not _is_copy(name, older)]
    with opened([*paths, *older], with_rotated=False) as sections:
        files: dict[str, _File] = {}
        for section in sections:
            files.setdefault(section.path, _File(section.path)).sections.append(section)
        for file in files.values():
            file.sample()
        mine = _most(file.volume for path, file in files.items() if path in paths or not paths)
        chosen = [
            file
            for path, file in files.items()
            # The name alone proves nothing: log-2 may be the log of another volume.
            if path in paths or None in (file.volume, mine) or file.volume == mine
        ]
        chosen.sort(key=lambda file: (file.start is None, file.start or 0, file.path))
        yield [section for file in chosen for section in file.sections]


def _is_copy(name: str, names: Sequence[str]) -> bool:
    return is_compressed(name) and name.rpartition(".")[0] in names


def _most(values: Iterator[bytes | None]) -> bytes | None:
    counted = Counter(value for value in values if value is not None)
    return counted.most_common(1)[0][0] if counted else None
