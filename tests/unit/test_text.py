import json
import os
import re
import time
import unicodedata
from collections.abc import Iterator
from typing import Any

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fusevol.record.record import EVENTS, OPERATIONS, AccessRecord, decode, encode
from fusevol.record.text import CHANGES, format_record
from fusevol.terminal import printable, printable_json, quoted

ID = "4d5e6f70" * 8


@pytest.fixture(autouse=True)
def _one_hour_off() -> Iterator[None]:
    """A local time of UTC+01:00."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "TEST-1"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def record(op: str, **fields: Any) -> AccessRecord:
    usual: dict[str, Any] = {
        "time": "2026-11-23T10:00:00.123456Z", "seq": 1, "volume": "data", "path": "/a.txt",
        "result": "ok", "us": 12, "uid": 1000, "gid": 1000, "pid": 4711, "comm": "cat",
    }  # fmt: skip
    return AccessRecord(op=op, **(usual | fields))


def event(op: str, **fields: Any) -> AccessRecord:
    return record(op, path=None, uid=None, gid=None, pid=None, comm=None, **fields)


def words(line: str) -> str:
    return re.sub(r" +", " ", line)


WHEN = "2026-11-23 11:00:00.123"
WHO = "uid=1000 pid=4711 cat"


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (record("read", offset=0, size=4096, bytes_read=4096), f"read /a.txt ok 4096@0 12us {WHO}"),
        (record("read", offset=8, size=4096, bytes_read=9), f"read /a.txt ok 9/4096@8 12us {WHO}"),
        (
            record("write", offset=0, size=9, result="ENOSPC", us=1234),
            f"write /a.txt ENOSPC 9@0 1.2ms {WHO}",
        ),
        (record("rename", to="/b.txt"), f"rename /a.txt -> /b.txt ok 12us {WHO}"),
        (record("symlink", target=".."), f"symlink /a.txt -> .. ok 12us {WHO}"),
        (
            record("open", flags="O_RDWR|O_APPEND", container=ID),
            f"open /a.txt ok flags=O_RDWR|O_APPEND 12us {WHO} 4d5e6f704d5e",
        ),
        (record("open", container="web"), f"open /a.txt ok 12us {WHO} web"),
        (
            record("setattr", owner=0, group=0, mode="0600", size=5),
            f"setattr /a.txt ok mode=0600 owner=0 group=0 size=5 12us {WHO}",
        ),
        (
            record("release", bytes_read=0, bytes_written=7, us=2_500_000),
            f"release /a.txt ok bytes_read=0 bytes_written=7 2.5s {WHO}",
        ),
        (
            record("setxattr", name="user.a b", size=3),
            f'setxattr /a.txt ok size=3 name="user.a b" 12us {WHO}',
        ),
        (record("lookup", path="/a b"), f'lookup "/a b" ok 12us {WHO}'),
        (record("lookup", uid=0, pid=0, comm=None), "lookup /a.txt ok 12us uid=0 pid=0"),
        (
            event("mount", source="/srv/a b", level="all", format=1),
            'mount volume data ok source="/srv/a b" level=all 12us',
        ),
        (event("unmount", reason="SIGTERM"), "unmount volume data ok reason=SIGTERM 12us"),
        (
            event("gap", lost=17, since="2026-11-23T09:59:00.5Z", reason="full"),
            "gap !!! 17 OPERATIONS WERE NOT RECORDED SINCE 2026-11-23T09:59:00.5Z: full !!!",
        ),
        (
            event("gap", lost=17, since="2026-11-23T09:59:00.500000Z"),
            "gap !!! 17 OPERATIONS WERE NOT RECORDED SINCE 2026-11-23 10:59:00.500 !!!",
        ),
    ],
)
def test_record_as_text(shown: AccessRecord, text: str) -> None:
    assert words(format_record(shown)) == f"{WHEN} {text}"


@pytest.mark.parametrize("text", ["", "today", "2026-99-99T10:00:00.000000Z", "0001-01-01T00:00Z"])
def test_time_that_is_none_is_shown_as_it_is(text: str) -> None:
    assert format_record(record("read", time=text)).startswith(f"{quoted(text)}  read ")


def test_columns_are_aligned() -> None:
    lines = [
        format_record(record(op, path=path, result=result, us=us))
        for op in OPERATIONS
        for path in ("/", "/a/path/of/some/length.txt")
        for result in ("ok", "ENOTEMPTY")
        for us in (0, 999_999)
    ]
    for column in (" /", " ok ", " uid="):
        assert len({line.index(column) for line in lines if column in line}) == 1, column


def test_long_path_is_not_cut() -> None:
    path = "/" + "a" * 5000
    assert f" {path} ok " in format_record(record("read", path=path))


def style_of(line: str, word: str) -> str:
    """The escape sequences right before a word."""
    found = re.search(rf"((?:\x1b\[\d+m)+){word}", line)
    assert found
    return found[1]


def test_color_tells_failures_changes_events_and_gaps_apart() -> None:
    styles = {
        style_of(format_record(shown, color=True), word)
        for shown, word in [
            (record("read", result="EACCES"), "read"),
            (record("unlink"), "unlink"),
            (event("mount"), "mount"),
            (event("gap"), WHEN),
        ]
    }
    assert len(styles) == 4
    failed = format_record(record("unlink", result="EACCES"), color=True)
    assert style_of(failed, "unlink") == style_of(failed, "EACCES") == "\x1b[31m\x1b[1m"
    assert "\x1b" not in format_record(record("read"), color=True)


@pytest.mark.parametrize("op", [*OPERATIONS, *EVENTS])
@pytest.mark.parametrize("result", ["ok", "EIO"])
def test_color_changes_no_text(op: str, result: str) -> None:
    shown = record(op, result=result)
    assert click.unstyle(format_record(shown, color=True)) == format_record(shown)


def test_changes_are_operations() -> None:
    assert set(OPERATIONS) >= CHANGES


# Written down here once more, from Unicode's own files, and not taken from what is tested.
FORBIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
INVISIBLE = {
    *"\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u3164\uffa0",
    *map(chr, range(0xFE00, 0xFE10)),
    *map(chr, range(0xE0100, 0xE01F0)),
}
NASTY = (
    "\x00\x07\x08\t\n\x0b\x0c\r\x1b\x7f\x80\x85\x9b\x9d\xa0\xad"
    "\u061c\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\u2800\ufeff"
    "\ud800\udfff\udc80\U000e0001\U0010ffff"
)


def assert_harmless(line: str) -> None:
    for character in line:
        assert unicodedata.category(character) not in FORBIDDEN_CATEGORIES, repr(character)
        assert unicodedata.category(character) != "Zs" or character == " ", repr(character)
        assert character not in INVISIBLE, repr(character)
    assert len(line.splitlines()) == 1
    line.encode()


anything = st.text(st.one_of(st.characters(exclude_categories=()), st.sampled_from(NASTY)))
TEXTS = [
    "time", "volume", "op", "path", "result", "comm", "container", "to", "target", "name", "flags",
    "mode", "rdev", "atime", "mtime", "source", "level", "reason", "since", "hash",
]  # fmt: skip
fields = st.fixed_dictionaries({}, optional=dict.fromkeys(TEXTS, anything))


@given(fields, st.sampled_from(["read", "rename", "mount", "gap"]), st.booleans())
@example({"path": NASTY, "comm": NASTY, "container": NASTY}, "rename", True)
@example(dict.fromkeys(("time", "since", "reason"), NASTY), "gap", True)
def test_nothing_of_a_record_reaches_the_terminal(
    values: dict[str, str], op: str, color: bool
) -> None:
    line = format_record(record(**({"op": op} | values)), color=color)
    assert_harmless(click.unstyle(line) if color else line)
    # What is left of the escape sequences of colors when these are taken away.
    assert "\x1b" not in re.sub(r"\x1b\[\d+m", "", line)


@given(st.text(st.sampled_from('a" \\')), st.text(st.sampled_from('a" \\')))
def test_names_cannot_be_mistaken_for_columns(one: str, other: str) -> None:
    line = format_record(record("rename", path="/" + one, to="/" + other, comm=one, container="c"))
    word = r'(?:[^" ]+|"(?:[^"\\]|\\.)*")'
    # As the log has them: a backslash is followed by another one.
    if "\\" not in one + other:
        found = re.fullmatch(
            rf"\S+ \S+  rename +({word}) -> ({word}) +ok +12us  uid=1000 pid=4711 ({word}) c", line
        )
        assert found
        assert found.groups() == (quoted("/" + one), quoted("/" + other), quoted(one))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Straße 7 日本語 🙂", "Straße 7 日本語 🙂"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x1b[31m\x7f", r"\x1b[31m\x7f"),
        ("\x9b\u202e\ud800", r"\u009b\u202e\ud800"),
        ("\U000e0101", r"\U000e0101"),
        (r"caf\xe9 \\", r"caf\xe9 \\"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(), st.text())
def test_different_texts_look_different(one: str, other: str) -> None:
    # As the log has them: with backslashes doubled.
    one, other = one.replace("\\", "\\\\"), other.replace("\\", "\\\\")
    assert (quoted(one) == quoted(other)) == (one == other)


@given(fields)
@example({"path": NASTY.replace("\ud800\udfff\udc80", "")})
def test_json_for_terminals_means_the_same(values: dict[str, str]) -> None:
    values = {key: text.encode("utf-8", "replace").decode() for key, text in values.items()}
    line = encode(record(**({"op": "read"} | values)))
    shown = printable_json(line)
    assert_harmless(shown.decode())
    assert json.loads(shown) == json.loads(line)


def test_json_for_terminals_leaves_what_is_harmless() -> None:
    line = encode(record("read", path="/Straße/日本語"))
    assert printable_json(line) is line


def test_json_of_others_for_terminals() -> None:
    line = b'{"time":"t",\r\t"seq":1,"op":"read","result":"ok","us":1,"more":"\xff"}'
    assert_harmless(printable_json(line).decode())
    assert decode(printable_json(line)).seq == 1
