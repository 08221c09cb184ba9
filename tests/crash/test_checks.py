"""The checks after a run notice what a crash could do to a log, a race or a tree."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from fusevol.linux.mounts import MNT_DETACH, mount, umount
from fusevol.record.record import AccessRecord, encode
from tests.crash.account import SUFFIX, Account, Done
from tests.crash.logcheck import look_through
from tests.crash.shared import wrong_lines, wrong_races
from tests.crash.trees import wrong_tree
from tests.served import needs_root

APPENDED: Final = "/storm/appended"


def done(op: str, path: str, result: str = "ok", size: int | None = None) -> Done:
    return Done(op, path, None, result, size, 0.0, 0.1)


def logged(op: str, path: str, result: str = "ok", **more: int) -> AccessRecord:
    record = AccessRecord(time="2026", op=op, path=path, result=result, us=1)
    record.offset, record.bytes_written = more.get("offset"), more.get("size")
    return record


DONE: Final = (
    done("mkdir", "/storm/a"), done("mkdir", "/storm/a", "EEXIST"), done("rmdir", "/storm/a"),
    done("mkdir", "/storm/a"), done("write", APPENDED, size=5), done("write", APPENDED, size=7),
)  # fmt: skip


def records() -> list[AccessRecord]:
    """What a log has to have of them, and some more."""
    return [
        logged("mount", "/"), logged("mkdir", "/storm/a"), logged("lookup", "/storm/a"),
        logged("rmdir", "/storm/a"), logged("write", APPENDED, offset=5, size=7),
        logged("mkdir", "/storm/a"), logged("write", APPENDED, offset=0, size=5),
        logged("mkdir", "/elsewhere"), logged("write", "/storm/a map", offset=0, size=1),
    ]  # fmt: skip


@pytest.fixture
def wrong(tmp_path: Path) -> Callable[[list[AccessRecord]], str]:
    """Return what is wrong with a log of these records."""
    account = Account(tmp_path / f"one{SUFFIX}")
    for one in DONE:
        account.write(one)
    account.close()

    def check(records: list[AccessRecord]) -> str:
        for number, record in enumerate(records, 1):
            record.seq = number if record.seq < 0 else record.seq
        log = tmp_path / "log"
        log.write_bytes(b"".join(encode(record) + b"\n" for record in records))
        return "\n".join(look_through(log, tmp_path, "/storm", "all").wrong)

    return check


def test_a_right_log(wrong: Callable[[list[AccessRecord]], str]) -> None:
    assert wrong(records()) == ""


def test_an_operation_that_is_missing(wrong: Callable[[list[AccessRecord]], str]) -> None:
    found = [record for record in records() if record.op != "rmdir"]
    assert "1 time(s) too few in the log: ('rmdir', '/storm/a'" in wrong(found)


def test_an_operation_that_was_repeated(wrong: Callable[[list[AccessRecord]], str]) -> None:
    found = [*records(), logged("mkdir", "/storm/a")]
    assert "1 time(s) too many in the log: ('mkdir', '/storm/a'" in wrong(found)


def test_a_failure_that_no_client_saw(wrong: Callable[[list[AccessRecord]], str]) -> None:
    found = [*records(), logged("rmdir", "/storm/a", "ENOENT")]
    assert "1 time(s) too many in the log: ('rmdir', '/storm/a', None, 'ENOENT'" in wrong(found)


def test_a_write_at_a_place_that_was_written(
    wrong: Callable[[list[AccessRecord]], str],
) -> None:
    found = records()
    found[4].offset = 3
    assert f"{APPENDED}: the log has a write at 3, the one before ended at 5" in wrong(found)


@pytest.mark.parametrize("seq", [4, 6])
def test_a_number_that_is_not_the_next(
    wrong: Callable[[list[AccessRecord]], str], seq: int
) -> None:
    found = records()
    found[4].seq = seq
    assert f"seq {seq} after 4" in wrong(found)


def test_a_gap(wrong: Callable[[list[AccessRecord]], str]) -> None:
    assert "gap" in wrong([*records(), logged("gap", "/")])


def test_a_torn_line(tmp_path: Path) -> None:
    record = logged("mkdir", "/storm/a")
    record.seq = 1
    log = tmp_path / "log"
    log.write_bytes(encode(record))
    assert "ends within a line" in look_through(log, tmp_path, "/storm", "all").wrong[0]


def test_races() -> None:
    made, lost = done("create", "/r/1"), done("create", "/r/1", "EEXIST")
    removed, late = done("unlink", "/r/1"), done("unlink", "/r/1", "ENOENT")
    assert wrong_races([made, lost, lost, removed, late], "/r") == []
    assert wrong_races([lost, lost], "/r")
    assert wrong_races([made, made], "/r")
    assert wrong_races([made, removed, removed], "/r")
    assert wrong_races([made, late], "/r")


@pytest.mark.parametrize(
    "content",
    [b"1 1 x\n1 2 x\n1 2 x\n", b"1 1 x\n1 3 \n2 1 \n", b"1 2 \n1 1 \n2 1 \n", b"1 1 x\n1 2 \n"],
    ids=["repeated", "skipped", "out of order", "missing"],
)
def test_lines(content: bytes) -> None:
    assert wrong_lines(b"1 1 x\n2 1 \n1 2 xx\n", 3, "file") == []
    assert wrong_lines(content, 3, "file")


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A tree, and a view of it with the same inode numbers that can be changed alone."""
    lower, upper, work, view = (tmp_path / name for name in ("lower", "upper", "work", "view"))
    for path in (lower, upper, work, view):
        path.mkdir()
    (lower / "b").mkdir()
    for path in (lower / "b/file", lower / "b/same"):
        path.write_bytes(b"before")
    os.setxattr(lower / "b/file", "user.a", b"1")
    (lower / "link").symlink_to("b")
    mount("overlay", str(view), "overlay", 0, f"lowerdir={lower},upperdir={upper},workdir={work}")
    yield lower, view
    umount(str(view), MNT_DETACH)


def set_times(path: Path) -> None:
    os.utime(path, ns=(0, 1))


def set_attribute(path: Path) -> None:
    os.setxattr(path, "user.a", b"2")


def set_content(path: Path) -> None:
    before = path.stat().st_mtime_ns
    path.write_bytes(b"behind")
    os.utime(path, ns=(before, before))


CHANGES: Final[tuple[tuple[Callable[[Path], object], str], ...]] = (
    (set_content, "content"), (set_times, "mtime is 1"), (set_attribute, "attributes is"),
    (lambda path: path.chmod(0o600), "mode is '0o100600'"), (Path.unlink, "on one side only"),
    (lambda path: path.with_name("more").touch(), "'more'} on one side only"),
)  # fmt: skip


@needs_root
@pytest.mark.parametrize(("change", "noticed"), CHANGES, ids=[noticed for _, noticed in CHANGES])
def test_trees(tree: tuple[Path, Path], change: Callable[[Path], object], noticed: str) -> None:
    assert wrong_tree(*tree) == []
    change(tree[1] / "b/file")
    assert noticed in "\n".join(wrong_tree(*tree))
