"""The bound of a record: no client and no format makes a longer line, and paths keep their ends."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusevol.inodes.objects import Directory
from fusevol.inodes.table import InodeTable
from fusevol.names import decode_name, encode_name
from fusevol.options.log import LogFormat
from fusevol.proof.keys import load_or_make
from fusevol.proof.sealer import Sealer
from fusevol.record.bounds import (
    LONGEST_LINE_BYTES,
    LONGEST_PATH_BYTES,
    LONGEST_VOLUME_BYTES,
    fitting,
    path_text,
)
from fusevol.record.formats import ecs, encoder, juicefs, ocsf, text
from fusevol.record.record import EVENTS, OPERATIONS, AccessRecord, encode
from fusevol.recovery.nodes import NodeEntries
from fusevol.volume.paths import Paths
from tests.log.records import MAX_INT64
from tests.unit.regions import new_region

_WORST: Final = [b"\x01", b"\x7f", b"\\", b'"', b"\xff", b"\n", "\x85".encode(), "\u2028".encode(),
                 "\U000e0100".encode(), b" ", b"a"]  # fmt: skip
_CELLS: Final = st.sampled_from(_WORST)


def _filled(cell: bytes, length: int) -> bytes:
    return (cell * length)[:length]


def _long_path(cell: bytes, length: int) -> str:
    """Return a path whose names are `length` bytes long, and which is as long as one can be."""
    return path_text([_filled(cell, length)] * (4096 // (length + 1)))


_TIME: Final = "2026-11-23T10:00:00.123456Z"


def _operation(op: str, cell: bytes, other: bytes, length: int) -> AccessRecord:
    """Return a record in which all is as long as it can be, and more than belongs together."""
    big = MAX_INT64
    name = encode_name(_filled(other, 255))
    record = AccessRecord(
        _TIME, big, encode_name(_filled(other, LONGEST_VOLUME_BYTES)), op,
        _long_path(cell, length), big, "EPROTONOSUPPORT", 2**53, big, big, big,
        encode_name(_filled(other, 64)), name, name=name, flags="|".join(["O_DIRECTORY"] * 20),
        mode="0107777", rdev="4294967295:4294967295", owner=big, group=big, atime=_TIME,
        mtime=_TIME, offset=big, size=big, entries=big, bytes_read=big, bytes_written=big,
        count=big, reason="crashed the worker repeatedly, and was refused", since=_TIME,
    )  # fmt: skip
    if op in ("symlink", "readlink"):
        record.target = encode_name(_filled(other, 4095))
    else:
        record.to = _long_path(other, length)
    return record


def _event(op: str, cell: bytes, other: bytes, length: int) -> AccessRecord:
    words = _filled(other, length * 200).decode(errors="replace")
    return AccessRecord(
        _TIME, MAX_INT64, encode_name(_filled(other, LONGEST_VOLUME_BYTES)), op, result="EIO",
        us=2**53, source=fitting(_long_path(cell, length)), filter=fitting(words),
        level="data", format=1, lost=MAX_INT64, since=_TIME, signature="x" * 88,
    )  # fmt: skip


@pytest.fixture(scope="module")
def seal(tmp_path_factory: pytest.TempPathFactory) -> Callable[[AccessRecord], bytes]:
    directory = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSEVOL_STATE_DIRECTORY", str(directory))
        return Sealer(load_or_make(), str(directory / "data.log"), "data").encode


@given(
    op=st.sampled_from((*OPERATIONS, *EVENTS)), cell=_CELLS, other=_CELLS,
    length=st.sampled_from([1, 2, 100, 254, 255]),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
@example(op="rename", cell=b"\x01", other=b"\x01", length=255)
@example(op="rename", cell=b"\x01", other=b"\x01", length=1)
@example(op="symlink", cell=b"\x01", other=b"\x01", length=1)
@example(op="mount", cell=b"\x01", other=b"\x01", length=255)
def test_no_record_is_longer_than_the_bound(
    op: str, cell: bytes, other: bytes, length: int, seal: Callable[[AccessRecord], bytes]
) -> None:
    record = (_operation if op in OPERATIONS else _event)(op, cell, other, length)
    for name in LogFormat:
        line = encoder(name)(record)
        assert len(line) < LONGEST_LINE_BYTES
        assert b"\n" not in line
    assert len(seal(record)) < LONGEST_LINE_BYTES
    for format_ in (ecs, ocsf, juicefs, text):
        # None is told as JSON because it was too long.
        assert format_.decode(format_.encode(record)) == record


def test_the_worst_there_is_comes_near_the_bound() -> None:
    worst = path_text([b"\x01" * 255] * 16)
    line = encode(AccessRecord(_TIME, 1, "v", "rename", worst, result="ok", us=1, to=worst))
    assert len(line) > 0.74 * LONGEST_LINE_BYTES


# --- paths ---


@contextmanager
def _table() -> Iterator[tuple[InodeTable, Paths]]:
    root = os.stat_result((stat.S_IFDIR | 0o755, 2, 7, 1, 0, 0, 0, 0, 0, 0))
    with new_region() as region:
        table = InodeTable(root, NodeEntries(region), lambda _inode: None, lambda _inode: None)
        yield table, Paths(table)


def _nest(table: InodeTable, names: list[bytes]) -> Directory:
    found = table.root
    for number, name in enumerate(names):
        assert isinstance(found, Directory)
        status = os.stat_result((stat.S_IFDIR | 0o755, 100 + number, 7, 1, 0, 0, 0, 0, 0, 0))
        found = table.seen(found, name, status)
        table.refer(found)
    assert isinstance(found, Directory)
    return found


_LISTS: Final = st.lists(
    st.builds(_filled, _CELLS, st.integers(1, 255)), min_size=1, max_size=60
) | st.integers(1900, 2100).map(lambda depth: [b"a"] * depth)  # fmt: skip


@given(_LISTS, st.randoms())
@settings(max_examples=100, deadline=None)
def test_paths_by_inodes_are_those_of_their_names(names: list[bytes], random: object) -> None:
    with _table() as (table, paths):
        _nest(table, names)
        for depth in (len(names), 1, len(names) // 2, len(names)):
            if depth:
                assert paths.of(table[99 + depth]) == path_text(names[:depth])


@given(_LISTS)
@settings(max_examples=100, deadline=None)
def test_a_path_is_whole_or_says_what_is_missing(names: list[bytes]) -> None:
    whole = b"/" + b"/".join(names)
    written = path_text(names)
    if len(whole) <= LONGEST_PATH_BYTES:
        assert decode_name(written) == whole
        return
    begin, mark, end = written.split("//")
    missing = int(mark.removeprefix("...").removesuffix("..."))
    head, tail = decode_name(begin) + b"/", decode_name(end)
    assert whole.startswith(head)
    assert whole.endswith(b"/" + tail)
    assert len(head) + missing + len(tail) == len(whole)
    assert len(decode_name(written)) <= LONGEST_PATH_BYTES
    assert len(head) > 1700
    assert len(tail) > 1700


def test_paths_of_deep_directories_follow_a_move() -> None:
    names = [b"a" * 200] * 60
    with _table() as (table, paths):
        deep = _nest(table, names)
        assert paths.of(deep) == path_text(names)
        assert isinstance(table.root, Directory)
        table.move(table[130], table.root, b"top")
        assert paths.of(deep) == path_text([b"top", *names[31:]])
        assert paths.child(deep, b"new") == path_text([b"top", *names[31:], b"new"])


def test_looking_up_a_deep_directory_takes_time_that_grows_with_its_depth_only() -> None:
    """Counted in names that are encoded, which are all that is long about a path."""
    depth = 2000
    with _table() as (table, paths):
        deep = _nest(table, [b"\x01" * 250] * depth)
        visited = 0

        def count(name: bytes) -> str:
            nonlocal visited
            visited += len(name)
            return encode_name(name)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fusevol.volume.paths.encode_name", count)
            patch.setattr("fusevol.record.bounds.encode_name", count)
            paths.child(deep, b"new")
        assert visited < 4 * LONGEST_PATH_BYTES
        assert deep.path_bytes == 1 + depth * 251
