"""Every format gives back the record it was made of, whatever names and numbers are in there."""

import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fusevol.names import encode_name
from fusevol.options.log import LogFormat
from fusevol.record import record as native
from fusevol.record.formats import decode, ecs, encoder, format_of, juicefs, ocsf, text
from fusevol.record.record import AccessRecord, MalformedRecordError
from fusevol.record.text import format_record
from tests.log.records import RECORDS
from tests.patience import PATIENCE_S

FORMATS = [native, ecs, ocsf, juicefs, text]
every_format = pytest.mark.parametrize("format_", FORMATS, ids=lambda module: module.__name__)

HOSTILE = encode_name(b'/a\n\r\x1b]0;pwned\x07\x00\x7f\xff\xc2\x9b31m\xe2\x80\xae "\\) - OK <1.0>')

RENAME = AccessRecord(
    time="2026-11-24T02:03:07.818470Z", seq=17, volume="data", op="rename", path=HOSTILE,
    result="ENOTEMPTY", us=47, uid=0, gid=0, pid=17195, comm=HOSTILE, container="ab" * 32,
    to=HOSTILE, flags="NOREPLACE",
)  # fmt: skip
GAP = AccessRecord(
    time="2026-11-24T02:03:07.818470Z", seq=18, volume="data", op="gap", result="ok", us=0,
    reason="No space left on device", lost=3, since="2026-11-24T02:03:07.000000Z",
)  # fmt: skip


@every_format
@given(record=RECORDS)
@example(record=RENAME)
@example(record=GAP)
def test_nothing_is_lost(format_: ModuleType, record: AccessRecord) -> None:
    assert format_.decode(format_.encode(record)) == record


@every_format
@given(record=RECORDS)
@example(record=RENAME)
def test_a_record_is_one_line(format_: ModuleType, record: AccessRecord) -> None:
    line = format_.encode(record)
    assert not re.search(rb"[\x00-\x1f]", line)
    assert line.decode()


@given(RECORDS)
@example(RENAME)
def test_lines_for_people_and_for_juicefs_are_harmless_as_they_are(record: AccessRecord) -> None:
    assert format_record(record).isprintable()
    assert juicefs.encode(record).decode().isprintable()
    assert text.encode(record).decode().isprintable()


@pytest.mark.parametrize("name", list(LogFormat))
@given(record=RECORDS)
@example(record=RENAME)
@example(record=GAP)
@example(record=AccessRecord(time="@9", seq=1, op="no word", result="ok", us=1))
def test_a_log_is_read_whatever_its_format(name: LogFormat, record: AccessRecord) -> None:
    assert decode(encoder(name)(record)) == record


@given(RECORDS, st.sampled_from(['"@timestamp"', '"class_uid"', "@timestamp", "class_uid"]))
def test_names_do_not_make_json_look_like_another_format(record: AccessRecord, name: str) -> None:
    record.name = record.path = record.to = name
    assert decode(native.encode(record)) == record


@pytest.mark.parametrize("name", list(LogFormat))
@given(data=st.data())
def test_damaged_line_of_any_format_raises_nothing_else(
    name: LogFormat, data: st.DataObject
) -> None:
    line = bytearray(encoder(name)(RENAME))
    for _ in range(data.draw(st.integers(1, 3))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(line))
    except MalformedRecordError:
        pass


@every_format
@pytest.mark.parametrize(
    "line",
    [b"", b"null", b"[]", b"{}", b"open /etc/passwd", b"\xff", b'{"event":1}', b'{"metadata":[]}'],
)
def test_line_of_another_kind_is_refused(format_: ModuleType, line: bytes) -> None:
    with pytest.raises(MalformedRecordError):
        format_.decode(line)


@every_format
@given(data=st.data())
def test_damaged_line_raises_nothing_else(format_: ModuleType, data: st.DataObject) -> None:
    line = bytearray(format_.encode(RENAME))
    for _ in range(data.draw(st.integers(1, 3))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    try:
        format_.decode(bytes(line))
    except MalformedRecordError:
        pass


_TEXT = b"2026-11-24T02:03:07.816699Z 8 data write ok 35us"
_JUICEFS = b"2026.11.24 02:03:07.816699 [uid:1,gid:2,pid:3] write (1,2,3"


@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize(
    "line",
    [_TEXT + b" " * 10**6, _TEXT + b" a=b" * 250_000 + b"!", _TEXT + b' a="' + b'\\"' * 500_000,
     _TEXT + b' a="' + b"\\" * 10**6, b"2026-" + b"1" * 10**6, _JUICEFS + b",a:1" * 250_000,
     _JUICEFS + b") - " + b" <" * 500_000, _JUICEFS + b',a:"' + b'\\"' * 500_000,
     b'{"@timestamp"' + b" " * 10**6, b'"@timestamp" ' * 80_000, b'{"@timestamp":' + b"[" * 10**6],
    ids=range(11),
)  # fmt: skip
def test_a_line_made_to_take_long_does_not(line: bytes) -> None:
    try:
        decode(line)
    except MalformedRecordError:
        pass


@pytest.mark.parametrize("format_", [native, ecs, ocsf], ids=lambda module: module.__name__)
@pytest.mark.parametrize("keys", [("uid",), ("pid",), ("gid", "comm"), ("container", "gid", "pid")])
def test_caller_of_whom_little_is_known(format_: ModuleType, keys: tuple[str, ...]) -> None:
    record = AccessRecord(
        time=GAP.time, seq=1, volume="", op="read", path="/", result="ok", us=1,
        **{key: getattr(RENAME, key) for key in keys},
    )  # fmt: skip
    assert format_.decode(format_.encode(record)) == record


@pytest.mark.parametrize("format_", [ecs, ocsf, juicefs, text], ids=lambda module: module.__name__)
@pytest.mark.parametrize(
    "time",
    ["yesterday", "2026-02-30T00:00:00.000000Z", "2026-11-24T02:03:07Z",
     "2026-11-24 02:03:07.818470Z", "2026-11-24T02:03:07.81847\n0Z", "2026-11-24T02:03:07.+12345Z"],
)  # fmt: skip
def test_time_that_is_none_is_refused(format_: ModuleType, time: str) -> None:
    record = AccessRecord(time=time, seq=1, volume="data", op="read", result="ok", us=1)
    with pytest.raises(MalformedRecordError):
        format_.encode(record)


def test_ecs_document() -> None:
    document = json.loads(ecs.encode(RENAME))
    assert document["@timestamp"] == "2026-11-24T02:03:07.818470Z"
    assert document["event"] == {
        "kind": "event", "category": ["file"], "type": ["change"], "outcome": "failure",
        "duration": 47_000, "module": "fusevol", "dataset": "fusevol.access", "sequence": 17,
        "action": "rename",
    }  # fmt: skip
    assert document["error"] == {"code": "ENOTEMPTY"}
    assert document["user"] == {"id": "0", "group": {"id": "0"}}
    assert document["process"] == {"pid": 17195, "name": HOSTILE}
    assert document["container"] == {"id": "ab" * 32}
    assert document["fusevol"] == {"volume": "data", "to": HOSTILE, "flags": "NOREPLACE"}


def test_ocsf_event() -> None:
    event = json.loads(ocsf.encode(RENAME))
    assert event["type_uid"] == 100105
    assert event["time"] == 1795485787818
    assert event["metadata"]["original_time"] == "2026-11-24T02:03:07.818470Z"
    assert (event["status_id"], event["status_code"]) == (2, "ENOTEMPTY")
    assert event["file_result"]["path"] == HOSTILE
    assert event["actor"]["process"]["container"] == {"uid": "ab" * 32}
    assert event["unmapped"] == {"us": 47, "flags": "NOREPLACE"}


@pytest.mark.parametrize(
    ("op", "keys", "activity"),
    [
        ("setattr", {"mode": "0600", "size": 1}, 7),
        ("setattr", {"group": 0}, 7),
        ("setattr", {"size": 0, "mtime": "x"}, 3),
        ("setattr", {"mtime": "x"}, 6),
        ("setxattr", {"name": "security.capability"}, 7),
        ("setxattr", {"name": "user.a"}, 6),
        ("removexattr", {"name": "system.posix_acl_access"}, 7),
        ("getxattr", {"name": "system.posix_acl_default"}, 9),
        ("getxattr", {"name": "user.a"}, 8),
        ("unlink", {}, 4),
        ("create", {}, 1),
        ("mount", {}, 12),
        ("release", {}, 99),
    ],
)
def test_ocsf_activity(op: str, keys: dict[str, str | int], activity: int) -> None:
    record = AccessRecord(time=GAP.time, seq=1, volume="data", op=op, result="ok", us=1)
    for key, value in keys.items():
        setattr(record, key, value)
    event = json.loads(ocsf.encode(record))
    assert event["activity_id"] == activity
    assert event.get("activity_name") == (op if activity == 99 else None)


def test_juicefs_line() -> None:
    record = AccessRecord(
        time="2026-11-24T02:03:07.816699Z", seq=8, volume="data", op="write", path="/r.txt",
        ino=2148141, result="ok", us=1_000_035, uid=1, gid=2, pid=17185, offset=0, size=6,
    )  # fmt: skip
    assert juicefs.encode(record) == (
        b"2026.11.24 02:03:07.816699 [uid:1,gid:2,pid:17185] write "
        b'(2148141,6,0,seq:8,volume:"data",path:"/r.txt") - OK <1.000035>'
    )


def test_text_line() -> None:
    record = AccessRecord(
        time="2026-11-24T02:03:07.816699Z", seq=8, volume="data", op="write", path="/r\\xe9.txt",
        result="ok", us=35, uid=1, comm="my sh", offset=0, name="",
    )  # fmt: skip
    assert text.encode(record) == (
        b"2026-11-24T02:03:07.816699Z 8 data write ok 35us path=/r\\xe9.txt uid=1 "
        b'comm="my sh" name="" offset=0'
    )


@pytest.mark.parametrize("name", [LogFormat.JUICEFS, LogFormat.TEXT])
def test_line_of_the_documentation(name: LogFormat) -> None:
    page = (Path(__file__).parents[2] / "docs/access-log.md").read_text()
    lines = re.findall(r"(?m)^    (\d{4}[.-]\d\d[.-]\d\d.*)$", page)
    [line] = [one.encode() for one in lines if format_of(one.encode()) is name]
    assert encoder(name)(decode(line)) == line


def test_juicefs_line_is_never_longer_than_juicefs_reads() -> None:
    record = AccessRecord(
        time=GAP.time, seq=1, volume="data", op="open", path="/" + "\u202e" * 11_000,
        result="ok", us=1,
    )  # fmt: skip
    with pytest.raises(MalformedRecordError, match="longer than the 65534 bytes"):
        juicefs.encode(record)
    record.path = "/" + "\u202e" * 10_000
    assert len(juicefs.encode(record)) <= 65534
