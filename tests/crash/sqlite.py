"""SQLite: two processes move amounts between accounts, with either kind of journal."""

import random
import sqlite3
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

from tests.crash.workload import Figures, Place, main

_MODES = ("delete", "wal")
_ACCOUNTS = 50
_AMOUNT = 1000
_PROCESSES = 2
_BUSY_S = 60.0


def sqlite(place: Place) -> Figures:
    """Run transactions on a database for each journal; each has to be there exactly once.

    Raises:
        AssertionError: SQLite met an error, or a database is not whole.
    """
    databases = [place.directory / f"{mode}.db" for mode in _MODES]
    for path, mode in zip(databases, _MODES, strict=True):
        _create(path, mode)
    context = get_context("fork")
    jobs = [(path, number) for path in databases for number in range(_PROCESSES)]
    writers = [context.Process(target=_write, args=(place, *job)) for job in jobs]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    failed = [job for job, writer in zip(jobs, writers, strict=True) if writer.exitcode != 0]
    assert not failed, f"writers {failed} failed, see above"
    return {"transactions": sum(_check(place, path) for path in databases)}


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)


def _create(path: Path, mode: str) -> None:
    with closing(_connect(path)) as database:
        assert database.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
        database.execute("create table account (amount int)")
        database.execute("create table move (writer int, number int, note text)")
        database.execute("create index by_number on move (number, writer)")
        database.executemany("insert into account values (?)", [(_AMOUNT,)] * _ACCOUNTS)


def _write(place: Place, path: Path, writer: int) -> None:
    """Be one process that writes; notes outside of the volume how many transactions it has made."""
    rng = random.Random()
    number = 0
    with closing(_connect(path)) as database:
        while number == 0 or place.goes_on():
            source, target = rng.sample(range(1, _ACCOUNTS + 1), 2)
            amount = rng.randrange(100)
            database.execute("begin immediate")
            change = "update account set amount = amount + ? where rowid = ?"
            database.execute(change, (-amount, source))
            database.execute(change, (amount, target))
            database.execute("insert into move values (?, ?, ?)",
                             (writer, number, "x" * rng.randrange(900)))  # fmt: skip
            database.execute("commit")
            number += 1
            _compare_sum(database, path)
    _note(place, path, writer).write_text(str(number))


def _note(place: Place, path: Path, writer: int) -> Path:
    return place.scratch / f"{path.name}-{writer}"


def _compare_sum(database: sqlite3.Connection, path: Path) -> None:
    (total,) = database.execute("select sum(amount) from account").fetchone()
    assert total == _AMOUNT * _ACCOUNTS, f"{path}: the sum of all accounts is {total}"


def _check(place: Place, path: Path) -> int:
    """Check a database; return how many transactions are in it."""
    total = 0
    with closing(_connect(path)) as database:
        (said,) = database.execute("pragma integrity_check").fetchone()
        assert said == "ok", f"{path}: {said}"
        _compare_sum(database, path)
        for writer in range(_PROCESSES):
            made = int(_note(place, path, writer).read_text())
            found = database.execute(
                "select count(*), count(distinct number) from move where writer = ?", (writer,)
            ).fetchone()
            assert found == (made, made), f"{path}: {found} of {made} transactions"
            total += made
    return total


if __name__ == "__main__":
    main(sqlite)
