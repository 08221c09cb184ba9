"""Directories nested far beyond PATH_MAX, of names that JSON writes with six bytes for each."""

import contextlib
import errno
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from fusevol.model import OnLogFailure
from fusevol.record.bounds import LONGEST_LINE_BYTES, path_text
from fusevol.record.record import AccessRecord
from fusevol.recording.writer import LogWriter
from tests.served import Record, Served, fusevol, needs_root, serve, wait_until

pytestmark = needs_root

_NAME: Final = b"\x01" * 250
_DEPTH: Final = 125


def _nest(top: Path) -> None:
    top.mkdir(parents=True)
    fd = os.open(top, os.O_PATH)
    for _ in range(_DEPTH):
        os.mkdir(_NAME, dir_fd=fd)
        fd = _below(fd)
    os.close(fd)


def _below(fd: int) -> int:
    inner = os.open(_NAME, os.O_PATH | os.O_DIRECTORY, dir_fd=fd)
    os.close(fd)
    return inner


def _deepest(top: Path) -> int:
    fd = os.open(top, os.O_PATH | os.O_DIRECTORY)
    for _ in range(_DEPTH):
        fd = _below(fd)
    return fd


class _Deep:
    """Two deep directories of a volume, and a file that is in one of them."""

    def __init__(self, mount: Served) -> None:
        self.fds = [_deepest(mount.mountpoint / top) for top in "AB"]
        self.where = 0

    def move(self) -> None:
        one, other = self.fds[self.where], self.fds[1 - self.where]
        os.rename("x", "x", src_dir_fd=one, dst_dir_fd=other)
        self.where = 1 - self.where

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    for top in "AB":
        _nest(source / top)
    fd = _deepest(source / "A")
    os.close(os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    return source


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "disk"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2140k", "tmpfs", root], check=True)
    yield root
    subprocess.run(["umount", "--lazy", root], check=True)


def _renames(mount: Served) -> list[Record]:
    return [r for r in mount.records() if r["op"] == "rename" and r["result"] == "ok"]


def _path(top: bytes) -> str:
    return path_text([top, *[_NAME] * _DEPTH, b"x"])


@pytest.mark.usefixtures("source")
def test_under_deny_no_large_record_is_lost(tmp_path: Path, disk: Path) -> None:
    options = ("-o", "on_log_failure=deny,include=op=rename")
    with serve(tmp_path, *options, log=disk / "access.log") as mount:
        deep = _Deep(mount)
        done, refusals = 0, []
        for _ in range(150):
            try:
                deep.move()
                done += 1
            except OSError as error:
                refusals.append(error.errno)
        deep.close()
        assert done > 10
        assert set(refusals) == {errno.EIO}
        assert len(_renames(mount)) == done
        assert _renames(mount)[0]["path"] == _path(b"A")
        assert _renames(mount)[0]["to"] == _path(b"B")


@pytest.mark.usefixtures("source")
def test_under_deny_room_is_made_for_operations_that_wait(tmp_path: Path, disk: Path) -> None:
    """Several wait for the device at once, and each of them needs its record."""
    options = ("-o", "on_log_failure=deny,include=op=fsyncdir|fsync")
    with serve(tmp_path, *options, log=disk / "access.log") as mount:
        deep = _Deep(mount)
        done: list[int] = []

        def sync() -> None:
            fd = os.open("x", os.O_RDWR, dir_fd=deep.fds[0])
            for _ in range(20):
                try:
                    os.fsync(fd)
                except OSError:
                    continue
                done.append(1)
            os.close(fd)

        threads = [threading.Thread(target=sync) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        deep.close()
        recorded = [r for r in mount.records() if r["op"] == "fsync" and r["result"] == "ok"]
        assert len(recorded) == len(done) > 10


def test_room_holds_what_waits_and_one_more(disk: Path) -> None:
    log = LogWriter(str(disk / "access.log"), "data", OnLogFailure.DENY)
    assert log.admit is not None
    log.admit(7)
    with (disk / "filler").open("wb", buffering=0) as filler:
        for size in (65536, 4096):
            with contextlib.suppress(OSError):
                while filler.write(b"x" * size):
                    pass
    longest = path_text([b"\x01" * 255] * 16)
    for _ in range(8):
        log.append(AccessRecord(op="rename", path=longest, result="ok", to=longest), 0)
    assert not log.losses.count
    # Room for more than the disk has.
    with pytest.raises(OSError, match="access log"):
        log.admit(100)
    log.close()
    assert len((disk / "access.log").read_bytes().splitlines()) == 8


@pytest.mark.usefixtures("source")
def test_a_chain_goes_on_behind_a_large_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEVOL_STATE_DIRECTORY", str(tmp_path / "state"))
    with serve(tmp_path, "-o", "chain,include=op=rename|mkdir") as mount:
        deep = _Deep(mount)
        deep.move()
        deep.close()
        fusevol("reload", mount.mountpoint)
        (mount.mountpoint / "new").mkdir()
        wait_until(lambda: mount.records()[-1]["op"] == "mkdir", "the record of the mkdir")
        lines = mount.log.read_bytes().splitlines()
        assert LONGEST_LINE_BYTES // 2 < max(map(len, lines)) < LONGEST_LINE_BYTES
    said = fusevol("log", "verify", mount.log)
    assert "are as they were written" in said.stdout


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("form", ["json", "ecs", "ocsf", "juicefs", "text"])
def test_both_ends_of_a_path_are_found(tmp_path: Path, form: str) -> None:
    with serve(tmp_path, "-o", f"include=op=rename,format={form}") as mount:
        deep = _Deep(mount)
        deep.move()
        deep.close()
        lines = mount.log.read_bytes().splitlines()
    assert max(map(len, lines)) < LONGEST_LINE_BYTES
    for pattern in ("/A", "x", "/B/**/x"):
        said = fusevol("log", "show", "--format", "json", "--path", pattern, mount.log)
        (record,) = map(json.loads, said.stdout.splitlines())
        assert (record["path"], record["to"]) == (_path(b"A"), _path(b"B"))
        assert "//..." in record["path"]
