"""What clients of a storm do in common: one of them wins a race, and no line is lost."""

import fcntl
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

from fusevol.record.record import OK
from tests.crash.account import Done
from tests.crash.client import STALLED_S, Client, MismatchError

_WINDOW_S: Final = 0.1
_REMOVED_AFTER: Final = 2 * round(STALLED_S / _WINDOW_S)
"""In windows; by then no client still tries to make the name."""

_AT_ONCE: Final = 100
"""Entries of a listing."""


class Races:
    """In each window of time all clients want to make the same name; later, to remove it.

    `winners` says afterwards whether exactly one of them succeeded.
    """

    def __init__(self, client: Client, directory: str) -> None:
        self._client = client
        self._directory = directory
        self._window = 0

    def prepare(self) -> None:
        """Make what is removed until the first names of this storm are old enough."""
        self._client.mkdir(self._directory)
        now = _now()
        for window in range(now - _REMOVED_AFTER, now):
            self._make(window)

    def step(self) -> None:
        window = _now()
        if window != self._window:
            self._window = window
            self._make(window)
            self._remove(window - _REMOVED_AFTER)

    def finish(self) -> None:
        """Leave everything as it is."""

    def _make(self, window: int) -> None:
        op, make = _MAKERS[window % len(_MAKERS)]
        path = f"{self._directory}/{window}"
        result, value = self._client.attempt(op, path, make, path)
        if result not in (OK, "EEXIST"):
            raise MismatchError(op, path, "ok or EEXIST", result)
        if op == "create" and value is not None:
            os.close(value)

    def _remove(self, window: int) -> None:
        op, path = "unlink", f"{self._directory}/{window}"
        remove: Callable[[str], None] = os.unlink
        if _MAKERS[window % len(_MAKERS)][0] == "mkdir":
            op, remove = "rmdir", os.rmdir
        result, _nothing = self._client.attempt(op, path, remove, path)
        if result not in (OK, "ENOENT"):
            raise MismatchError(op, path, "ok or ENOENT", result)


def _now() -> int:
    return int(time.monotonic() / _WINDOW_S)


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)


def _symlink(path: str) -> None:
    os.symlink("nowhere", path)


_MAKERS: Final[tuple[tuple[str, Callable[[str], Any]], ...]] = (
    ("create", _create), ("mkdir", os.mkdir), ("mknod", os.mkfifo), ("symlink", _symlink),
)  # fmt: skip


def wrong_races(done: Iterable[Done], directory: str) -> list[str]:
    """Return the races in which not exactly one client succeeded.

    Args:
        directory: that of the races, as it is in the log.
    """
    made: dict[str, Counter[str]] = defaultdict(Counter)
    removed: dict[str, Counter[str]] = defaultdict(Counter)
    for one in done:
        if one.path.startswith(f"{directory}/"):
            table = removed if one.op in ("unlink", "rmdir") else made
            table[one.path][one.result] += 1
    wrong = [f"{path} was made {results[OK]} times: {dict(results)}"
             for path, results in made.items() if results[OK] != 1]  # fmt: skip
    wrong += [f"{path} was removed {results[OK]} times: {dict(results)}"
              for path, results in removed.items() if results[OK] != (path in made)]  # fmt: skip
    return wrong


class Appended:
    """A file to which all clients append lines, through descriptors that they keep for a while."""

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self._path = path
        self._fd = self._open()
        self._lines = 0

    def step(self) -> None:
        self._lines += 1
        filler = b"x" * self._client.rng.choice((0, 0, 70, 3000))
        line = b"%d %d %s\n" % (self._client.number, self._lines, filler)
        self._client.write(self._fd, self._path, line)
        if self._client.rng.random() < 0.1:
            os.close(self._fd)
            self._fd = self._open()

    def finish(self) -> None:
        os.close(self._fd)

    def _open(self) -> int:
        fd: int = self._client.call("open", self._path, os.open, self._path,
                                    os.O_WRONLY | os.O_APPEND)  # fmt: skip
        return fd


def wrong_lines(content: bytes, written: int, path: str) -> list[str]:
    """Return what is wrong with a file that was appended to.

    Args:
        written: how many lines clients saw written.
        path: as it is to be shown.
    """
    last: Counter[int] = Counter()
    wrong = []
    lines = content.splitlines(keepends=True)
    if len(lines) != written:
        wrong.append(f"{path} has {len(lines)} lines, {written} were written")
    for line in lines:
        number, count, filler = line.split(b" ")
        if filler.strip(b"x") != b"\n":
            wrong.append(f"{path}: torn line {line[:60]!r}")
        if int(count) != last[int(number)] + 1:
            wrong.append(f"{path}: line {int(count)} of client {int(number)} follows on its "
                         f"line {last[int(number)]}")  # fmt: skip
        last[int(number)] = int(count)
    return wrong


class Counted:
    """A number in a file that all clients raise, each under a lock."""

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self._path = path
        self._fd = client.call("open", path, os.open, path, os.O_RDWR)

    def step(self) -> None:
        call, path, fd = self._client.call, self._path, self._fd
        call("lock", path, fcntl.lockf, fd, fcntl.LOCK_EX)
        count = int(call("pread", path, os.pread, fd, 20, 0))
        call("count", path, os.pwrite, fd, b"%20d" % (count + 1), 0)
        call("unlock", path, fcntl.lockf, fd, fcntl.LOCK_UN)

    def finish(self) -> None:
        os.close(self._fd)


class Listed:
    """A directory that many entries stay in while others come and go; it is listed bit by bit."""

    def __init__(self, client: Client, directory: str, staying: frozenset[str]) -> None:
        self._client = client
        self._directory = directory
        self._staying = staying
        self._count = 0
        self._begin()

    def step(self) -> None:
        entries = self._client.call("next entries", self._directory, list,
                                    islice(self._entries, _AT_ONCE))  # fmt: skip
        self._seen.update(entry.name for entry in entries)
        if len(entries) < _AT_ONCE:
            self._compare()
            self._begin()
        self._come_and_go()

    def finish(self) -> None:
        self._entries.close()

    def _begin(self) -> None:
        self._seen: Counter[str] = Counter()
        self._entries = self._client.call("opendir", self._directory, os.scandir, self._directory)

    def _compare(self) -> None:
        twice = [name for name, times in self._seen.items() if times > 1]
        self._client.same("readdir (seen twice)", self._directory, [], twice)
        missing = sorted(self._staying - set(self._seen))
        self._client.same("readdir (missing)", self._directory, [], missing)

    def _come_and_go(self) -> None:
        self._count += 1
        path = f"{self._directory}/comes and goes {self._client.number} {self._count}"
        os.close(self._client.create(path))
        self._client.call("unlink", path, os.unlink, path)
