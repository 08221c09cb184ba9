"""The access log held against what clients saw finish, and against what was killed."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from fusevol.accesslog.record import OK, AccessRecord, decode
from tests.crash.account import Done, read_accounts

_COUNTED: Final = {
    "mkdir", "rmdir", "unlink", "rename", "link", "symlink", "mknod", "create", "setxattr",
    "removexattr", "write",
}  # fmt: skip
"""What a client does once is in the log once. Of writes only those of files that the account has:
maps are written when the kernel sees fit."""
_SHOWN: Final = 20

Operation = tuple[str, str | None, str | None, str, int | None]
"""op, path, `to` or `name`, result, bytes written."""


def wrong_log(log: Path, accounts: Path, directory: str, level: str) -> tuple[list[str], list[str]]:
    """Compare a log with what clients did in a directory of the volume.

    Args:
        accounts: holds what clients wrote down.
        directory: as the log has it.
        level: the record level. At `data` the kernel finds names without asking, so the log may
            show an object by another one of its names.

    Returns:
        What is wrong, and the reasons of all restarts.
    """
    by_name = level == "all"
    done, written = _done(read_accounts(accounts), directory, by_name)
    logged: Counter[Operation] = Counter()
    wrong: list[str] = []
    restarts: list[str] = []
    parts: dict[str, list[tuple[int, int]]] = {}
    for record in records_of(log, wrong):
        if record.op == "restart":
            restarts.append(record.reason or "")
        elif record.op == "gap":
            wrong.append(f"gap record {record}")
        elif _concerns(record, directory, written):
            logged[_operation(record, by_name)] += 1
            if record.op == "write" and record.path and _is_shared(record.path, directory):
                parts.setdefault(record.path, []).append(
                    (record.offset or 0, record.bytes_written or 0)
                )
    wrong += _differences(done, logged)
    for path, spans in parts.items():
        wrong += _overlaps(path, spans)
    return wrong, restarts


def records_of(log: Path, wrong: list[str]) -> Iterator[AccessRecord]:
    """Yield the records of a log; say in `wrong` where a line is torn or a number is not next."""
    expected = 1
    with log.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                wrong.append(f"the log ends within a line: {line[-200:]!r}")
            record = decode(line)
            if record.seq != expected and len(wrong) < _SHOWN:
                wrong.append(f"seq {record.seq} after {expected - 1}: {line!r}")
            expected = record.seq + 1
            yield record


def _done(
    account: Iterable[Done], directory: str, by_name: bool
) -> tuple[Counter[Operation], set[str]]:
    """Return what clients did that has to be in the log, and the files that they wrote."""
    done: Counter[Operation] = Counter()
    written = set()
    for one in account:
        if one.op == "write":
            if not by_name and not _is_shared(one.path, directory):
                continue
            written.add(one.path)
        if one.op in _COUNTED:
            path = one.path if by_name or one.op != "link" else None
            size = one.size if one.result == OK else None
            done[one.op, path, one.more, one.result, size] += 1
    return done, written


def _concerns(record: AccessRecord, directory: str, written: set[str]) -> bool:
    path = record.path or ""
    if record.op not in _COUNTED or not path.startswith(f"{directory}/"):
        return False
    return record.op != "write" or path in written


def _operation(record: AccessRecord, by_name: bool) -> Operation:
    path = record.path if by_name or record.op != "link" else None
    return (record.op, path, record.to or record.name, record.result, record.bytes_written)


def _is_shared(path: str, directory: str) -> bool:
    """Whether a file lies in the directory itself, where nothing is made anew or renamed."""
    return path.rpartition("/")[0] == directory


def _differences(done: Counter[Operation], logged: Counter[Operation]) -> list[str]:
    """Compare; a failure may be missing, as the kernel finds most of them without asking."""
    missing = [f"{count} time(s) too few in the log: {operation}"
               for operation, count in (done - logged).items() if operation[3] == OK]  # fmt: skip
    surplus = [f"{count} time(s) too many in the log: {operation}"
               for operation, count in (logged - done).items()]  # fmt: skip
    return missing[:_SHOWN] + surplus[:_SHOWN]


def _overlaps(path: str, spans: list[tuple[int, int]]) -> list[str]:
    """Return where the writes to a file that is appended to do not follow on each other."""
    end = 0
    for offset, size in sorted(spans):
        if offset != end:
            return [f"{path}: the log has a write at {offset}, the one before ended at {end}"]
        end = offset + size
    return []
