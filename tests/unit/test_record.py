import errno
import json
import re
from typing import get_type_hints

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fusevol.options.log import LogFormat
from fusevol.record import formats
from fusevol.record.record import (
    EVENTS,
    OK,
    OPERATIONS,
    AccessRecord,
    MalformedRecordError,
    decode,
    encode,
    errno_name,
)

REQUIRED = {
    "time": st.text(min_size=1),
    "seq": st.integers(0, 2**63 - 1),
    "volume": st.text(),
    "op": st.sampled_from(OPERATIONS + EVENTS),
    "result": st.sampled_from([OK, *errno.errorcode.values()]),
    "us": st.integers(0, 2**63 - 1),
}
OPTIONAL = {
    str | None: st.none() | st.text(),
    int | None: st.none() | st.integers(-(2**63), 2**64 - 1),
}
RECORDS = st.builds(
    AccessRecord,
    **REQUIRED,
    **{
        key: OPTIONAL[hint]
        for key, hint in get_type_hints(AccessRecord).items()
        if key in AccessRecord.__struct_fields__ and key not in REQUIRED
    },
)

LINE = b'{"time":"2026-01-02T03:04:05.000006Z","seq":0,"op":"open","result":"ok","us":7}'


@given(RECORDS)
def test_what_was_encoded_is_decoded(record: AccessRecord) -> None:
    assert decode(encode(record)) == record


@given(RECORDS)
def test_line_is_one_json_object_with_keys_in_order(record: AccessRecord) -> None:
    line = encode(record)
    assert b"\n" not in line
    keys = list(json.loads(line))
    assert keys == [key for key in AccessRecord.__struct_fields__ if key in keys]


def test_keys_without_a_value_are_left_out() -> None:
    record = AccessRecord(time="2026-01-02T03:04:05.000006Z", seq=0, op="open", result="ok", us=7)
    assert encode(record) == LINE


def test_falsy_values_are_kept() -> None:
    record = decode(LINE)
    record.uid = record.pid = record.offset = 0
    record.comm = ""
    assert json.loads(encode(record)).items() >= {
        "uid": 0, "pid": 0, "offset": 0, "comm": "", "seq": 0
    }.items()  # fmt: skip


def test_keys_of_newer_versions_are_ignored() -> None:
    assert decode(LINE[:-1] + b',"colour":{"is":["new"]}}') == decode(LINE)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"open /etc/passwd",
        LINE[:-1],
        LINE + LINE,
        LINE.replace(b'"seq":0', b'"seq":"0"'),
        LINE.replace(b'"seq":0', b'"seq":-1'),
        LINE.replace(b'"open"', b'"\xff"'),
        *(LINE.replace(key, b'"other"') for key in (b'"time"', b'"seq"', b'"op"', b'"us"')),
    ],
)
def test_line_that_is_no_record_is_refused(line: bytes) -> None:
    with pytest.raises(MalformedRecordError):
        decode(line)


@given(st.binary())
@example(b'{"path":"\\ud800"}')
def test_no_line_raises_anything_else(line: bytes) -> None:
    try:
        decode(line)
    except MalformedRecordError:
        pass


def test_deeply_nested_line_is_refused() -> None:
    # Python 3.14 counts bytes of the stack, not levels.
    nested = b"[" * 1_000_000 + b"]" * 1_000_000
    with pytest.raises(MalformedRecordError):
        decode(LINE[:-1] + b',"other":' + nested + b"}")


def test_errno_name() -> None:
    assert errno_name(errno.ENOENT) == "ENOENT"
    assert errno_name(4711) == "errno 4711"


@pytest.mark.parametrize("name", list(LogFormat))
@given(st.text("\x7f\x80\x85\x9f\xa0\u2027\u2028\u2029\u202a\n\r\v\fa\u2014\u2e81\xe4"))
def test_no_reader_takes_a_record_for_several_lines(name: str, text: str) -> None:
    record = AccessRecord(
        "2026-11-23T10:00:00.000000Z", 1, "data", "mkdir", f"/{text}", result="ok", us=1, uid=0,
        gid=0, pid=1, comm=text, reason=text,
    )  # fmt: skip
    line = formats.encoder(name)(record)
    shown = line.decode()
    assert len(shown.splitlines()) == 1
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", shown)
    assert formats.decode(line) == record
