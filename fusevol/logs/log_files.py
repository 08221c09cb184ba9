"""Which files are those of a log: by their names, and by the volume that their records name.

A log is the file at its path and what was rotated of it, by fusevol or by logrotate:

    data.log.1  data.log.2.gz  data.log-20261124  data.log-20261124T103000.123.zst
    data.1.log  data-20261124.log.gz                  logrotate's `extension .log`

A name alone proves nothing: data-2.log may be the log of a volume data-2. So what was rotated has
to begin with a record of the volume that the log is of.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from fusevol.errors import NotFoundError
from fusevol.logs.compression import DamagedError, decompressed, is_compressed
from fusevol.logs.lines import LogFile, explained
from fusevol.logs.reader import first_record
from fusevol.record.bounds import LONGEST_LINE_BYTES
from fusevol.record.record import AccessRecord

_TURN: Final = r"[.-][0-9][0-9.:T_-]*"
_BEHIND: Final = re.compile(_TURN + r"(?:\.[a-z0-9]+)?")
_BEFORE_EXTENSION: Final = re.compile(_TURN)
_BY_FUSEVOL: Final = re.compile(r"-[0-9]{8}T[0-9]{6}\.[0-9]{3}(?:\.zst)?")

_BEGINNING_BYTES: Final = 8 * LONGEST_LINE_BYTES
"""How far into a file its first record is looked for."""
_BLOCK_BYTES: Final = 64 * 1024


class LogPart(Protocol):
    """A file that may be one of a log.

    `volume` is the one that its records name, as text or bytes; None if it has no record.
    """

    @property
    def path(self) -> str: ...
    @property
    def volume(self) -> Any: ...


class BegunPart(LogPart, Protocol):
    """One whose first record is known; None if it has no record."""

    @property
    def first(self) -> AccessRecord | None: ...


Value = TypeVar("Value")
Part = TypeVar("Part", bound=LogPart)
Begun = TypeVar("Begun", bound=BegunPart)


class Beginning(NamedTuple):
    """A file, and the first record in it."""

    path: str
    first: AccessRecord | None

    @property
    def volume(self) -> str | None:
        """The volume that the record names."""
        return self.first.volume if self.first is not None else None


def rotated(log: str) -> list[str]:
    """Return the files that by their names may have been rotated of the log at `log`, by name.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: their directory cannot be read.
    """
    folder, name = os.path.split(os.path.realpath(log))
    return [
        path
        for path in _matching(folder, lambda one: _is_behind(name, one) or _is_inside(name, one))
        # What others may not read is taken for another's log, unless its name says otherwise.
        if _is_behind(name, os.path.basename(path)) or os.access(path, os.R_OK)
    ]


def rotated_by_fusevol(log: str) -> list[str]:
    """Return the files that fusevol itself has rotated of the log at `log`, the oldest first.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: their directory cannot be read.
    """
    folder, name = os.path.split(os.path.realpath(log))
    return _matching(folder, lambda entry: _is_behind(name, entry, _BY_FUSEVOL))


def parts_of_log(
    log: str, current: Part | None, found: Sequence[Part], volume: Any = None
) -> list[Part]:
    """Return those of `found`, which was `rotated`, that are of the log.

    Args:
        log: its path.
        current: the file at that path, if there is one.
        found: the others.
        volume: the log's; if it is not known, the one that `current` names, else most of those
            whose names begin with all of the log's.
    """
    name = os.path.basename(os.path.realpath(log))
    behind = [one for one in found if _is_behind(name, os.path.basename(one.path))]
    if volume is None and current is not None:
        volume = current.volume
    if volume is None:
        volume = most(one.volume for one in behind)
    return [
        one
        for one in found
        # A file without a record belongs to no volume: the reader of the log reports its content.
        if (one.volume == volume if one.volume is not None else one in behind)
    ]


def in_order(files: Iterable[Begun]) -> list[Begun]:
    """Put the files of each volume in the order of their records, one volume after the other.

    That is the order of `seq`. If two files begin with the same one, a new log was begun beside
    what was left of an older one, and times tell.
    """
    files = list(files)
    volumes = list(dict.fromkeys(file.volume for file in files))
    starts = [(file.volume, file.first.seq) for file in files if file.first is not None]
    is_unique = len(set(starts)) == len(starts)

    def key(file: Begun) -> tuple[int, int, str]:
        if file.first is None:
            return volumes.index(None), 0, ""
        seq = file.first.seq if is_unique else 0
        return volumes.index(file.volume), seq, file.first.time

    return sorted(files, key=key)


def newest_first(log: str, volume: str | None) -> list[Beginning]:
    """Return the rotated files of a log that hold records, the newest first.

    Args:
        volume: the log's, as it stands in records; None if it is not known.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: one of them cannot be read.
    """
    found = []
    for path in rotated(log):
        with contextlib.suppress(NotFoundError):
            found.append(Beginning(path, first_record_in(path)))
    return in_order(one for one in parts_of_log(log, None, found, volume) if one.first)[::-1]


def first_record_in(path: str) -> AccessRecord | None:
    """Return the first record of a file, compressed or not; None if there is none near its begin.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: it cannot be read.
    """
    if not is_compressed(path):
        with LogFile(path) as file:
            return first_record(file.read_at(0, _BEGINNING_BYTES).split(b"\n"))
    beginning = b""
    found = None
    with contextlib.suppress(DamagedError):
        for block in decompressed_blocks(path):
            beginning += block
            found = first_record(beginning.split(b"\n"))
            if found is not None or len(beginning) >= _BEGINNING_BYTES:
                break
    return found


def is_copy(path: str, paths: Iterable[str]) -> bool:
    """Return whether a file is what is just being compressed of another of `paths`."""
    return is_compressed(path) and path.rpartition(".")[0] in paths


def most(values: Iterable[Value | None]) -> Value | None:
    """Return the value that there is most of, but for None; None if there is no other."""
    counted = Counter(value for value in values if value is not None)
    return counted.most_common(1)[0][0] if counted else None


def _matching(folder: str, is_wanted: Callable[[str], bool]) -> list[str]:
    with explained(folder), os.scandir(folder) as entries:
        return sorted(entry.path for entry in entries if is_wanted(entry.name) and entry.is_file())


def _is_behind(name: str, entry: str, pattern: re.Pattern[str] = _BEHIND) -> bool:
    return entry.startswith(name) and pattern.fullmatch(entry, len(name)) is not None


def _is_inside(name: str, entry: str) -> bool:
    """Return whether an entry is called as logrotate's `extension` has it."""
    stem, extension = os.path.splitext(name)
    if is_compressed(entry):
        entry = os.path.splitext(entry)[0]
    end = len(entry) - len(extension)
    return (
        bool(extension)
        and entry.startswith(stem)
        and entry.endswith(extension)
        and _BEFORE_EXTENSION.fullmatch(entry, len(stem), end) is not None
    )


def decompressed_blocks(path: str) -> Iterator[bytes]:
    """Yield what a compressed file holds.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: it cannot be read.
        DamagedError: it ends early or is not valid.
    """
    with explained(path), decompressed(path, path) as read:
        while block := read(_BLOCK_BYTES):
            yield block
