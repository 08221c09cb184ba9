"""A log that is cut into sections holds what it holds line by line."""

import itertools
import re
import tempfile
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fusevol.errors import NotFoundError
from fusevol.logs import decoding, reader, sections
from fusevol.logs.decoding import LineDecoder
from fusevol.logs.reader import Skipped, is_blank, parse
from fusevol.logs.sections import Tally, opened
from fusevol.record.record import AccessRecord, MalformedRecordError, encode

MAX_LINE_BYTES: Final = 300

RECORD: Final = encode(
    AccessRecord(
        time="2026-11-23T10:00:00.000000Z", seq=7, volume="data", op="read", path="/a",
        result="ok", us=5,
    )
)  # fmt: skip

WITHOUT_A_KEY: Final = [
    re.sub(rb'"%s":("[^"]*"|[0-9]+),?' % key, b"", RECORD).replace(b",}", b"}")
    for key in (b"time", b"seq", b"op", b"result", b"us")
]

LINES: Final = st.sampled_from(
    [
        RECORD, RECORD.replace(b"7", b"8"), RECORD + b" ", b"\r" + RECORD, RECORD[:-1], b"", b"  ",
        b"nonsense", b"\xff" + RECORD, RECORD.replace(b"/a", b"/" + b"x" * MAX_LINE_BYTES),
        b"[" * 200, RECORD + RECORD, RECORD[:-1] + b',"x":', RECORD[:-1] + b',"x":{}', b"}",
        b"," + RECORD[1:], b"{}}", *WITHOUT_A_KEY,
    ]
)  # fmt: skip


def one_by_one(data: bytes) -> tuple[list[tuple[int, bytes, AccessRecord]], list[int]]:
    records, skipped = [], []
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            records.append((number, line, parse(line)))
        except MalformedRecordError:
            if not is_blank(line):
                skipped.append(number)
    return records, skipped


def in_sections(path: Path, data: bytes) -> tuple[list[tuple[int, bytes, AccessRecord]], Skipped]:
    found = []
    tally = Tally()
    with opened([str(path)], with_rotated=False) as parts:
        for part in parts:
            first = 1 + data[: part.start].count(b"\n")
            skipped = Skipped()
            for before, block, records, _is_json in part.batches(skipped):
                lines = zip(itertools.count(first + before), block.split(b"\n"), strict=False)
                found += [
                    (number, line, record)
                    for (number, line), record in zip(lines, records, strict=False)
                    if record is not None
                ]
            tally.add(part, skipped)
    return found, tally.skipped


@given(
    st.lists(LINES).map(b"\n".join),
    st.sampled_from([b"", b"\n", b"\n\n"]),
    st.integers(1, 400),
    st.integers(1, 400),
)
@example(b"\n".join([RECORD] * 3), b"\n", 400, 10_000)
@example(RECORD + RECORD + b"\n\n" + RECORD, b"", 10_000, 10_000)
@example(RECORD[:-1] + b',"x":\n{}}' + RECORD, b"", 10_000, 10_000)
@example(RECORD[:-1] + b',"x":{}\n}' + RECORD, b"", 10_000, 10_000)
@example(b"\n".join([RECORD] * 3 + WITHOUT_A_KEY), b"\n", 400, 10_000)
def test_sections(text: bytes, end: bytes, section_bytes: int, block_bytes: int) -> None:
    data = text + end
    with (
        tempfile.NamedTemporaryFile() as file,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sections, "_SECTION_BYTES", section_bytes)
        patch.setattr(sections, "_BLOCK_BYTES", block_bytes)
        patch.setattr(sections, "MAX_LINE_BYTES", MAX_LINE_BYTES)
        patch.setattr(decoding, "MAX_LINE_BYTES", MAX_LINE_BYTES)
        patch.setattr(reader, "MAX_LINE_BYTES", MAX_LINE_BYTES)
        file.write(data)
        file.flush()
        expected, expected_skipped = one_by_one(data)
        found, skipped = in_sections(Path(file.name), data)
        assert found == expected
        assert skipped.count == len(expected_skipped)
        assert [one.number for one in skipped.first] == expected_skipped[:1]


@given(st.lists(LINES, min_size=1, max_size=4).map(b"\n".join))
@example(RECORD[:-1] + b',"x":\n{}}' + RECORD)
@example(RECORD[:-1] + b',"x":{}\n}' + RECORD)
@example(RECORD + RECORD[:-1] + b"\n}")
@example(RECORD.replace(b"/a", b"/{a}{b}") + b"\n" + RECORD)
@example(b"\n" + RECORD + RECORD)
@example(RECORD + RECORD + b"\n")
@example(b"")
def test_lines_at_once_are_what_they_are_one_by_one(block: bytes) -> None:
    found = LineDecoder(AccessRecord).all_json(block)
    records, _skipped = one_by_one(block)
    if found is not None:
        assert found == [record for _number, _line, record in records]
        assert len(found) == block.count(b"\n") + 1


def test_names_with_braces_are_no_hindrance() -> None:
    block = b"\n".join([RECORD.replace(b"/a", b"/${a}{b}")] * 9)
    assert len(LineDecoder(AccessRecord).all_json(block) or ()) == 9


def test_a_key_that_is_required_is_missed_in_any_line() -> None:
    for line in WITHOUT_A_KEY:
        assert one_by_one(line) == ([], [1])


def test_a_log_that_was_just_rotated_and_not_begun_anew(tmp_path: Path) -> None:
    log = tmp_path / "data.log"
    (tmp_path / "data.log.1").write_bytes(RECORD + b"\n")
    with opened([str(log)], with_rotated=True) as parts:
        assert [len(batch.records) for part in parts for batch in part.batches(Skipped())] == [1]
    for path, with_rotated in ((log, False), (tmp_path / "x" / "y", True)):
        with (
            pytest.raises(NotFoundError, match="no such file"),
            opened([str(path)], with_rotated=with_rotated),
        ):
            pass
