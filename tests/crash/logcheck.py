"""The access log held against what clients saw finish, and against what was killed."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fusevol.logs.log_files import rotated_by_fusevol
from fusevol.record.record import OK, AccessRecord, decode
from tests.crash.account import Done, read_accounts

_NAMES: Final = {
    "mkdir", "rmdir", "unlink", "rename", "link", "symlink", "mknod", "create", "setxattr",
    "removexattr",
}  # fmt: skip
"""What a client does once is in the log once."""
_OBJECTS: Final = {"open", "read", "write", "setattr", "fsync"}
"""So are these, on paths that the account has them for. Other files are mapped, for example, and
written when the kernel sees fit."""
_SHOWN: Final = 20

Operation = tuple[str, str | None, str | None, str, int | None]
"""op, path, `to` or `name`, result, bytes read or written."""


@dataclass
class Found:
    """What a log says.

    Attributes:
        wrong: what is not as it has to be.
        restarts: the reasons of all restarts.
        records: how many there are; they are numbered from 1.
    """

    records: int = 0
    wrong: list[str] = field(default_factory=list)
    restarts: list[str] = field(default_factory=list)


def look_through(log: Path, accounts: Path, directory: str, level: str) -> Found:
    """Compare a log with what clients did in a directory of the volume.

    What the process that calls this did there itself does not count.

    Args:
        accounts: holds what clients wrote down.
        directory: as the log has it.
        level: the record level.
    """
    found = Found()
    comparison = _Comparison(directory, level == "all")
    for done in read_accounts(accounts):
        comparison.add_done(done)
    for record in _records(log, found.wrong):
        found.records += 1
        if record.op == "restart":
            found.restarts.append(record.reason or "")
        elif record.op == "gap":
            found.wrong.append(f"gap record {record}")
        elif record.pid != os.getpid():
            comparison.add_record(record)
    found.wrong += comparison.differences()
    return found


def _records(log: Path, wrong: list[str]) -> Iterator[AccessRecord]:
    """Yield the records of a log; say in `wrong` where a line is torn or a number is not next."""
    expected = 1
    for path in map(Path, (*rotated_by_fusevol(str(log)), str(log))):
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                wrong.append(f"{path} ends within a line: {line[-200:]!r}")
            record = decode(line)
            if record.seq != expected and len(wrong) < _SHOWN:
                wrong.append(f"seq {record.seq} after {expected - 1}: {line!r}")
            expected = record.seq + 1
            yield record


@dataclass
class _Comparison:
    """Counts what clients did, then what the log has.

    Attributes:
        directory: where clients did it.
        by_name: the log has the very name that a client used for an object. Not so at level
            `data`, where the kernel finds names without asking: then what is done to an object
            counts in files of `directory` itself only, which are never renamed nor linked.
    """

    directory: str
    by_name: bool
    _balance: Counter[Operation] = field(default_factory=Counter)
    _objects: set[tuple[str, str]] = field(default_factory=set)
    _appended: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def add_done(self, done: Done) -> None:
        """Count what a client did; all of it comes before the log."""
        if done.op in _OBJECTS:
            if not self.by_name and (done.op != "write" or not self._is_shared(done.path)):
                return
            self._objects.add((done.op, done.path))
        elif done.op not in _NAMES:
            return
        size = done.size if done.result == OK else None
        self._balance[done.op, self._name(done.op, done.path), done.more, done.result, size] += 1

    def add_record(self, record: AccessRecord) -> None:
        """Count what the log has."""
        path = record.path or ""
        if not path.startswith(f"{self.directory}/"):
            return
        if record.op not in _NAMES and (record.op, path) not in self._objects:
            return
        size = record.bytes_written if record.op == "write" else record.bytes_read
        more = record.to or record.name
        self._balance[record.op, self._name(record.op, path), more, record.result, size] -= 1
        if record.op == "write" and self._is_shared(path):
            self._appended[path].append((record.offset or 0, size or 0))

    def differences(self) -> list[str]:
        """Return what differs; failures may be missing: most are found by the kernel alone."""
        missing = [
            f"{count} time(s) too few in the log: {operation}"
            for operation, count in (+self._balance).items()
            if operation[3] == OK
        ]
        surplus = [f"{count} time(s) too many in the log: {operation}"
                   for operation, count in (-self._balance).items()]  # fmt: skip
        torn = [text for path, spans in self._appended.items() for text in _overlaps(path, spans)]
        return missing[:_SHOWN] + surplus[:_SHOWN] + torn

    def _name(self, op: str, path: str) -> str | None:
        # The existing name of a link is one of the names of an object.
        return path if self.by_name or op != "link" else None

    def _is_shared(self, path: str) -> bool:
        return path.rpartition("/")[0] == self.directory


def _overlaps(path: str, spans: Iterable[tuple[int, int]]) -> list[str]:
    """Return where the writes to a file that is appended to do not follow on each other."""
    end = 0
    for offset, size in sorted(spans):
        if offset != end:
            return [f"{path}: the log has a write at {offset}, the one before ended at {end}"]
        end = offset + size
    return []
