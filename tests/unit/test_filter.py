import contextlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusevol.logs.filter import Filter, parse_result, parse_time, path_matcher
from fusevol.names import encode_name
from fusevol.record.record import AccessRecord

ID = "4d5e" * 16


def record(**fields: Any) -> AccessRecord:
    usual: dict[str, Any] = {
        "time": "2026-11-23T10:00:00.000000Z", "seq": 1, "volume": "data", "op": "read",
        "path": "/etc/passwd", "result": "ok", "us": 5, "uid": 1000, "pid": 4711,
    }  # fmt: skip
    return AccessRecord(**(usual | fields))


def matches(found: AccessRecord, **conditions: Any) -> bool:
    return Filter(**conditions).compile()(found)


def test_without_conditions_everything_matches() -> None:
    assert matches(record())
    assert matches(AccessRecord())


@pytest.mark.parametrize(
    ("conditions", "fields"),
    [
        ({"ops": ("write", "read")}, {"op": "read"}),
        ({"uids": (0, 1000)}, {"uid": 0}),
        ({"pids": (4711,)}, {"pid": 4711}),
        ({"results": ("ok",)}, {"result": "ok"}),
        ({"results": ("failed",)}, {"result": "EACCES"}),
        ({"results": ("ENOENT", "EACCES")}, {"result": "EACCES"}),
        ({"results": ("ok", "failed")}, {"result": "ok"}),
        ({"results": ("failed", "ok")}, {"result": "EACCES"}),
        ({"volumes": ("data", "more")}, {"volume": "more"}),
        ({"containers": (ID,)}, {"container": ID}),
        ({"containers": ("0", "4d5")}, {"container": ID}),
        ({"containers": ("web",)}, {"container": "web"}),
        ({"containers": ("-",)}, {"container": None}),
        ({"containers": ("4d5", "-")}, {"container": None}),
        ({"paths": ("/etc", "/srv")}, {"path": "/srv/a"}),
        ({"paths": ("/etc",)}, {"op": "rename", "path": "/tmp/x", "to": "/etc/x"}),
        ({"paths": ("/etc",)}, {"op": "rename", "path": "/etc/x", "to": "/tmp/x"}),
        ({"since": "2026-11-23T10:00:00.000000Z"}, {"time": "2026-11-23T10:00:00.000000Z"}),
        ({"until": "2026-11-23T10:00:00.000001Z"}, {"time": "2026-11-23T10:00:00.000000Z"}),
    ],
)
def test_condition_holds(conditions: dict[str, Any], fields: dict[str, Any]) -> None:
    assert matches(record(**fields), **conditions)


@pytest.mark.parametrize(
    ("conditions", "fields"),
    [
        ({"ops": ("write",)}, {"op": "read"}),
        ({"uids": (0,)}, {"uid": 1000}),
        ({"uids": (0,)}, {"uid": None}),
        ({"pids": (4711,)}, {"pid": 4712}),
        ({"results": ("ok",)}, {"result": "EACCES"}),
        ({"results": ("failed",)}, {"result": "ok"}),
        ({"results": ("EACCES",)}, {"result": "EPERM"}),
        ({"volumes": ("data",)}, {"volume": "data2"}),
        ({"containers": (ID,)}, {"container": ID[::-1]}),
        ({"containers": ("d5e",)}, {"container": ID}),
        ({"containers": ("10",)}, {"container": "100"}),
        ({"containers": ("we",)}, {"container": "web"}),
        ({"containers": ("",)}, {"container": ID}),
        ({"containers": ("4d5",)}, {"container": None}),
        ({"containers": ("-",)}, {"container": ID}),
        ({"containers": ("-",)}, {"op": "mount", "uid": None, "pid": None}),
        ({"paths": ("/etc",)}, {"path": "/srv/etc"}),
        ({"paths": ("/etc",)}, {"op": "rename", "path": "/tmp/x", "to": "/srv/x"}),
        ({"paths": ("/",)}, {"op": "mount", "path": None}),
        ({"since": "2026-11-23T10:00:00.000001Z"}, {"time": "2026-11-23T10:00:00.000000Z"}),
        ({"until": "2026-11-23T10:00:00.000000Z"}, {"time": "2026-11-23T10:00:00.000000Z"}),
    ],
)
def test_condition_does_not_hold(conditions: dict[str, Any], fields: dict[str, Any]) -> None:
    assert not matches(record(**fields), **conditions)


CONDITIONS: dict[str, Any] = {
    "ops": ("read",),
    "paths": ("/etc",),
    "uids": (1000,),
    "pids": (4711,),
    "containers": ("4d5e",),
    "results": ("ok",),
    "volumes": ("data",),
    "since": "2026-11-23T09:00:00.000000Z",
    "until": "2026-11-23T11:00:00.000000Z",
}
OTHER: dict[str, Any] = {
    "ops": {"op": "write"},
    "paths": {"path": "/srv"},
    "uids": {"uid": 0},
    "pids": {"pid": 1},
    "containers": {"container": None},
    "results": {"result": "EIO"},
    "volumes": {"volume": "other"},
    "since": {"time": "2026-11-23T08:00:00.000000Z"},
    "until": {"time": "2026-11-23T12:00:00.000000Z"},
}


def test_all_conditions_have_to_hold() -> None:
    assert matches(record(container=ID), **CONDITIONS)
    assert set(CONDITIONS) == set(Filter.__slots__) == set(OTHER)


@pytest.mark.parametrize("name", OTHER)
def test_one_condition_that_does_not_hold_is_enough(name: str) -> None:
    assert not matches(record(**({"container": ID} | OTHER[name])), **CONDITIONS)


@pytest.mark.parametrize("name", OTHER)
def test_gap_is_hidden_by_time_and_volume_only(name: str) -> None:
    gap = record(op="gap", path=None, uid=None, pid=None, lost=17)
    assert matches(gap, **CONDITIONS)
    for field, value in OTHER[name].items():
        if field != "op":
            setattr(gap, field, value)
    assert matches(gap, **CONDITIONS) == (name not in ("volumes", "since", "until"))


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/", "/"),
        ("/", "/a/b"),
        ("passwd", "/passwd"),
        ("passwd", "/etc/passwd"),
        ("etc", "/srv/etc/passwd"),
        ("/etc", "/etc"),
        ("/etc", "/etc/passwd"),
        ("/etc", "/etc/ssl/certs"),
        ("etc/ssl", "/etc/ssl/certs"),
        ("/etc/", "/etc/passwd"),
        ("etc/", "/srv/etc/passwd"),
        ("*.db", "/a.db"),
        ("*.db", "/.db"),
        ("*.db", "/srv/a.db"),
        ("/*.db", "/a.db"),
        ("/home/*/mail", "/home/eve/mail"),
        ("/home/*/mail", "/home/eve/mail/1"),
        ("/srv/**/*.db", "/srv/a.db"),
        ("/srv/**/*.db", "/srv/x/y/a.db"),
        ("/srv/**", "/srv/x/y"),
        ("**/x", "/x"),
        ("**/x", "/a/b/x"),
        ("/a**c", "/abc"),
        ("file?", "/file1"),
        ("file[0-9]", "/file1"),
        ("file[!0-9]", "/filex"),
        ("file[]x]", "/file]"),
        ("file[", "/file["),
        ("a.b", "/a.b"),
        ("a\nb*", "/a\nbc"),
        ("/etc", "/etc/a\nb"),
        ("**/x", "/a\nb/x"),
        ("*", "/a\nb"),
        ("Straße", "/Straße/7"),
        # As the log writes names: each byte that is not UTF-8 counts as one character.
        (r"caf\xe9", r"/caf\xe9"),
        ("caf\udce9", r"/caf\xe9"),
        ("caf?", r"/caf\xe9"),
        (r"a\\b", r"/a\\b"),
        ("a?b", r"/a\\b"),
    ],
)
def test_pattern_matches(pattern: str, path: str) -> None:
    assert path_matcher(pattern)(path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("passwd", "/passwd2"),
        ("passwd", "/xpasswd"),
        ("/etc", "/"),
        ("/etc", "/etcetera"),
        ("/etc", "/srv/etc"),
        ("etc/ssl", "/srv/etc/ssl"),
        ("/etc/", "/etc"),
        ("etc/", "/srv/etc"),
        ("*.db", "/a.db2"),
        ("*.db", "/a.db/b"),
        ("/*.db", "/srv/a.db"),
        ("/home/*/mail", "/home/eve/x/mail"),
        ("/home/*/mail", "/home/mail"),
        ("/srv/*", "/srv/a/b"),
        ("/srv/*", "/srv"),
        ("/srv/**", "/srv"),
        ("/srv/**/*.db", "/a.db"),
        ("/a**c", "/a/c"),
        ("file?", "/file"),
        ("file?", "/file12"),
        ("a?b", "/a/b"),
        ("file[0-9]", "/filex"),
        ("a[!x]b", "/a/b"),
        ("a[+-9]b", "/a/b"),
        ("a.b", "/axb"),
        ("(a|b)", "/a"),
        ("caf?", r"/caf\xe9\xe9"),
    ],
)
def test_pattern_does_not_match(pattern: str, path: str) -> None:
    assert not path_matcher(pattern)(path)


@pytest.mark.parametrize("pattern", ["", "[z-a]"])
def test_pattern_without_meaning(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"empty|bad character range"):
        path_matcher(pattern)


@given(st.text("ab*?[]!-^&|~\\/.\n(){}+$", min_size=1), st.text("ab/\\.x"))
def test_any_pattern_works_or_is_refused(pattern: str, path: str) -> None:
    with contextlib.suppress(ValueError):
        path_matcher(pattern)("/" + path)


@given(st.lists(st.binary(min_size=1).filter(lambda name: b"/" not in name), min_size=1))
def test_every_path_is_matched_by_itself(names: list[bytes]) -> None:
    path = "".join("/" + encode_name(name) for name in names)
    pattern = path.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
    assert path_matcher(pattern)(path)
    assert path_matcher(pattern)(path + "/below") == ("[" not in pattern.rpartition("/")[2])
    assert not path_matcher(pattern)(path + "x")


@pytest.fixture
def _half_an_hour_off() -> Iterator[None]:
    """A local time of UTC+05:30."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "TEST-5:30"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


NOW = datetime(2026, 11, 23, 14, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))


@pytest.mark.usefixtures("_half_an_hour_off")
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-23T10:00:00Z", "2026-11-23T10:00:00.000000Z"),
        ("2026-11-23T10:00:00.123456Z", "2026-11-23T10:00:00.123456Z"),
        ("2026-11-23T10:00:00.123456789Z", "2026-11-23T10:00:00.123456Z"),
        ("2026-11-23 10:00+01:00", "2026-11-23T09:00:00.000000Z"),
        ("2026-11-23T10:00", "2026-11-23T04:30:00.000000Z"),
        ("2026-11-23", "2026-11-22T18:30:00.000000Z"),
        ("10:00", "2026-11-23T04:30:00.000000Z"),
        ("10:00:30", "2026-11-23T04:30:30.000000Z"),
        ("10:00Z", "2026-11-23T10:00:00.000000Z"),
        (" now ", "2026-11-23T09:00:00.000000Z"),
        ("today", "2026-11-22T18:30:00.000000Z"),
        ("yesterday", "2026-11-21T18:30:00.000000Z"),
        ("90s", "2026-11-23T08:58:30.000000Z"),
        ("10m", "2026-11-23T08:50:00.000000Z"),
        ("2h", "2026-11-23T07:00:00.000000Z"),
        ("1d", "2026-11-22T09:00:00.000000Z"),
        ("1w", "2026-11-16T09:00:00.000000Z"),
    ],
)
def test_time(text: str, moment: str) -> None:
    assert parse_time(text, NOW) == moment


@pytest.mark.parametrize(
    "text",
    ["", "10", "10x", "-1h", "m", "25:00", "tomorrow", "2026-13-01", "999999999w", "1h30m"],
)
def test_text_that_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid time .*: expected one such as"):
        parse_time(text, NOW)


@given(st.datetimes(min_value=datetime(1, 1, 3), timezones=st.just(UTC)))
def test_order_of_times_is_order_of_texts(moment: datetime) -> None:
    text = parse_time(moment.isoformat(), NOW)
    assert text == parse_time(text, NOW)
    assert (text < parse_time("now", NOW)) == (moment < NOW)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("ok", "ok"),
        ("OK", "ok"),
        ("failed", "failed"),
        ("ENOENT", "ENOENT"),
        ("eacces", "EACCES"),
        # What the log calls errnos with two names.
        ("EWOULDBLOCK", "EAGAIN"),
    ],
)
def test_result(text: str, result: str) -> None:
    assert parse_result(text) == result


@pytest.mark.parametrize("text", ["", "fine", "ENONSENSE", "errorcode", "2"])
def test_text_that_is_no_result(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid result .*: expected ok, failed or an error"):
        parse_result(text)
