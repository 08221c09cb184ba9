"""What is around a handler: errors, refusals, requests that come again, executors."""

import errno
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyfuse3 import FUSEError

from fusevol.fuse.call_queue import Call, TooLateError
from fusevol.fuse.middleware import by_caller, by_handle
from fusevol.fuse.serving import Serving
from fusevol.inodes.objects import Opened
from fusevol.model import Caller
from fusevol.record.record import OPERATIONS, AccessRecord
from fusevol.recovery.journal import CODES, DONE, ERRNO, RECORDED, STARTED, Entry, Journal, Key
from fusevol.recovery.region import Region
from tests.unit.regions import new_region

_CTX = SimpleNamespace(pid=4711, uid=1000, gid=100, umask=0o022)


class Subjects:
    """Knows node 1, the root, and no other."""

    def note(self, record: AccessRecord, args: tuple[Any, ...]) -> None:
        if args[0] != 1:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        record.path = "/noted"


class Mount:
    """A mount without source and log, whose finished requests can be looked at."""

    def __init__(self, region: Region) -> None:
        self.journal = Journal(region)
        self.finished: list[tuple[AccessRecord | None, int]] = []
        self.freed: list[tuple[Entry, Call | None]] = []
        self.ran: list[object] = []
        self.on_thread = False
        self.is_full = False

    def serving(self) -> Serving:
        opened = SimpleNamespace(
            inode=SimpleNamespace(ino=7), caller=Caller(1, "bash", None), uid=1, gid=2, fh=3
        )
        table = SimpleNamespace(get={3: opened}.__getitem__)
        volume = SimpleNamespace(
            files=table, directories=table, paths=SimpleNamespace(of=lambda _inode: "/open")
        )
        everything = frozenset(OPERATIONS)
        return Serving(
            name="v",
            volume=cast("Any", volume),
            subjects=cast("Any", Subjects()),
            caching=cast("Any", None),
            callers=cast("Any", SimpleNamespace(identify=lambda pid, _now: Caller(pid))),
            journal=self.journal,
            executor=cast("Any", self),
            identified=everything,
            recorded=everything,
            admit=self._admit,
            finish=dict.fromkeys(OPERATIONS, self._finish),
        )

    def _admit(self, _pending: int) -> None:
        if self.is_full:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _finish(
        self,
        entry: Entry,
        record: AccessRecord | None,
        started: int,
        number: int,
        opened: Opened | None = None,
    ) -> None:
        assert started > 0
        self.journal.words[entry.at] = 0
        self.finished.append((record, number))

    def runner(self, handler: Callable[..., Any]) -> Callable[..., Awaitable[Any]] | None:
        async def run(*given: object) -> Any:
            self.ran.append(handler)
            return handler(*given)

        return run if self.on_thread else None

    def free(self, entry: Entry, late: Call | None) -> None:
        self.freed.append((entry, late))


@pytest.fixture
def region() -> Iterator[Region]:
    with new_region() as region:
        yield region


@pytest.fixture
def mount(region: Region) -> Mount:
    return Mount(region)


def _result(answer: Awaitable[Any]) -> Any:
    """Return what an answer does that waits for nothing."""
    coroutine = cast("Coroutine[Any, Any, Any]", answer)
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    return stopped.value.value


def _errno(answer: Awaitable[Any]) -> int:
    with pytest.raises(FUSEError) as raised:
        cast("Coroutine[Any, Any, Any]", answer).send(None)
    return raised.value.errno


def test_a_handler_gets_record_entry_and_arguments(mount: Mount) -> None:
    def mkdir(*given: Any) -> tuple[Any, ...]:
        assert mount.journal.inline.key == Key(CODES["mkdir"], _CTX.pid)
        assert mount.journal.inline.phase == STARTED
        return given

    answer = by_caller(mount.serving(), mkdir, once=True)
    record, entry, *args = _result(answer(1, b"name", 0o755, _CTX))
    assert (record.op, record.volume, record.uid, record.pid) == ("mkdir", "v", 1000, 4711)
    assert entry is mount.journal.inline
    assert args == [1, b"name", 0o755, _CTX]
    assert (mount.finished, mount.freed) == ([(record, 0)], [])


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (FUSEError(errno.ENOSYS), errno.ENOSYS),
        (ValueError("a mistake"), errno.EIO),
        (OSError("without a number"), errno.EIO),
    ],
)
def test_every_error_is_an_errno(
    mount: Mount, caplog: pytest.LogCaptureFixture, error: Exception, number: int
) -> None:
    def getattr(record: AccessRecord, _inode: int, _ctx: object) -> None:
        record.path = "/found"
        raise error

    def flush(_record: AccessRecord, _file: object) -> None:
        raise error

    serving = mount.serving()
    assert _errno(by_caller(serving, getattr)(1, _CTX)) == number
    assert _errno(by_handle(serving, flush)(3)) == number
    told = [(record.path, said) for record, said in mount.finished if record is not None]
    assert told == [("/found", number), ("/open", number)]
    assert len(caplog.records) == (2 if number == errno.EIO else 0)


@pytest.mark.parametrize(("inode", "path"), [(1, "/noted"), (2, None)])
def test_what_the_log_has_no_room_for_is_not_done(
    mount: Mount, inode: int, path: str | None
) -> None:
    mount.is_full = True
    called: list[object] = []

    def getattr(*given: object) -> None:
        called.append(given)

    assert _errno(by_caller(mount.serving(), getattr)(inode, _CTX)) == errno.EIO
    [(record, number)] = mount.finished
    assert record is not None
    assert (called, record.path, number) == ([], path, errno.EIO)


def test_closing_is_done_without_room_in_the_log(mount: Mount) -> None:
    mount.is_full = True
    after: list[object] = []

    def release(_record: AccessRecord, entry: Entry, _file: object) -> str:
        entry.done()
        return "closed"

    def forget(_file: object, record: AccessRecord) -> None:
        after.append(record.op)

    answer = by_handle(mount.serving(), release, once=True, after=forget)
    assert _result(answer(3)) == "closed"
    assert after == ["release"]


def test_an_unknown_handle_is_a_bad_one(mount: Mount) -> None:
    def fsync(*_given: object) -> None:
        raise AssertionError

    assert _errno(by_handle(mount.serving(), fsync)(4, True)) == errno.EBADF
    assert mount.finished == [(None, errno.EBADF)]


def test_on_a_thread_a_request_has_an_entry_of_its_own(mount: Mount) -> None:
    mount.on_thread = True

    def rmdir(_record: AccessRecord, entry: Entry, *_args: object) -> Entry:
        return entry

    entry = _result(by_caller(mount.serving(), rmdir, once=True)(1, b"name", _CTX))
    assert entry is not mount.journal.inline
    assert (mount.ran, mount.freed) == ([rmdir], [(entry, None)])


def test_what_was_given_up_says_so_and_on_what(mount: Mount) -> None:
    mount.on_thread = True
    late = cast("Call", object())

    def lookup(*_given: object) -> None:
        raise TooLateError(late)

    assert _errno(by_caller(mount.serving(), lookup)(1, b"name", _CTX)) == errno.EIO
    [(record, number)] = mount.finished
    assert record is not None
    assert (record.path, record.reason, number) == ("/noted", "deadline", errno.EIO)
    assert [given_up for _, given_up in mount.freed] == [late]


@pytest.mark.parametrize(("phase", "number"), [(RECORDED, errno.EEXIST), (RECORDED, 0), (DONE, 0)])
def test_a_request_that_comes_again_goes_on_where_it_was(
    region: Region, phase: int, number: int
) -> None:
    before = Journal(region).begin(CODES["mkdir"], _CTX.pid, 0, True)
    region.words[before.at + ERRNO] = number
    region.words[before.at] = CODES["mkdir"] | phase
    mount = Mount(region)
    mount.journal.load(0)

    def mkdir(_record: AccessRecord, entry: Entry, *_args: object) -> bool:
        assert not number, "it has failed"
        return entry.is_done

    answer = by_caller(mount.serving(), mkdir, once=True)(1, b"name", 0o755, _CTX)
    if number:
        assert _errno(answer) == number
    else:
        assert _result(answer) is True
    assert [entry.at for entry, _ in mount.freed] == [before.at]
    assert mount.journal.resumed == {}
