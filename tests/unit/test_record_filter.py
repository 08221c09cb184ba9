"""What the options that choose records mean, against a plain reading of the same words."""

import errno
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusevol.errors import UsageError
from fusevol.logs.filter import path_matcher
from fusevol.options.log import LogOptions
from fusevol.record.record import OK, OPERATIONS, AccessRecord
from fusevol.recording.record_filter import ALWAYS, NEVER, RecordFilter, check

_OPS = ("read", "write", "rename", "lookup")
_PATHS = ("/", "/etc/a b", "/srv/x.db", "/srv/it's;here", '/say "|"', "/caf\\xe9")
_CONTAINERS = (None, "a" * 64, "b" * 64, "web", "cafe01")
_VALUES: dict[str, tuple[str, ...]] = {
    "op": _OPS,
    "path": ("/etc", "*.db", "a b", "it's;here", '/say "|"', "/srv/"),
    "path~": (r"\.db$", "^/etc", "a|b", "caf\\\\xe9"),
    "to~": (r"\.db$", "^/etc"),
    "uid": ("0", "1000"),
    "gid": ("0", "100"),
    "pid": ("1", "4711"),
    "comm": ("bash", "a b"),
    "container": ("-", "a" * 64, "bbb", "web", "ca", "cafe01"),
    "result": (OK, "failed", "ENOENT", "enospc"),
}

_FOUND: dict[str, Callable[[str], bool]] = {
    r"\.db$": lambda path: path.endswith(".db"),
    "^/etc": lambda path: path.startswith("/etc"),
    "a|b": lambda path: "a" in path or "b" in path,
    "caf\\\\xe9": lambda path: "caf\\xe9" in path,
}

_Rule = dict[str, list[str]]

_rules = st.lists(
    st.dictionaries(
        st.sampled_from(sorted(_VALUES)), st.just(None), min_size=1, max_size=3
    ).flatmap(
        lambda keys: st.fixed_dictionaries(
            {key: st.lists(st.sampled_from(_VALUES[key]), min_size=1, max_size=2) for key in keys}
        )
    ),
    max_size=3,
)
_lists = st.lists(
    st.sampled_from(("all", "none", *_OPS, *(f"!{op}" for op in _OPS))), max_size=4
).map(" ".join)
_records = st.builds(
    AccessRecord,
    op=st.sampled_from(_OPS),
    path=st.none() | st.sampled_from(_PATHS),
    to=st.none() | st.sampled_from(_PATHS),
    result=st.sampled_from((OK, "ENOENT", "ENOSPC")),
    uid=st.sampled_from((0, 1000, 2000)),
    gid=st.sampled_from((0, 100)),
    pid=st.sampled_from((0, 1, 4711)),
    comm=st.sampled_from((None, "bash", "a b")),
    container=st.sampled_from(_CONTAINERS),
)


def _quoted(value: str) -> str:
    quote = '"' if "'" in value else "'"
    return f"{quote}{value}{quote}" if set(value) & set(" ;|'\"") else value


def _text(rules: list[_Rule]) -> str:
    return " ; ".join(
        " ".join(f"{key}={'|'.join(map(_quoted, values))}" for key, values in rule.items())
        for rule in rules
    )


def _holds(key: str, value: str, record: AccessRecord) -> bool:
    paths = [path for path in (record.path, record.to) if path is not None]
    if key == "path":
        return any(map(path_matcher(value), paths))
    if key in ("path~", "to~"):
        said = record.path if key == "path~" else record.to
        return said is not None and _FOUND[value](said)
    if key == "container":
        if value == "-":
            return record.container is None
        # The beginning of a name is not the name.
        if record.container == "cafe01":
            return value == "cafe01"
        return record.container is not None and record.container.startswith(value)
    if key == "result":
        return (
            (record.result != OK)
            if value == "failed"
            else record.result == {"enospc": "ENOSPC"}.get(value, value)
        )
    return str(getattr(record, key)) == value


def _matches(rules: list[_Rule], record: AccessRecord) -> bool:
    return any(
        all(any(_holds(key, value, record) for value in values) for key, values in rule.items())
        for rule in rules
    )


def _listed(text: str, op: str) -> bool:
    words = text.split()
    listed = not words or words[0].startswith("!")
    for word in words:
        if word.lstrip("!") in ("all", op):
            listed = not word.startswith("!")
    return listed


@settings(max_examples=100, deadline=None)
@given(_rules, _rules, _lists, _lists, st.lists(_records, min_size=1, max_size=20))
def test_a_record_is_kept_as_the_words_say(
    include: list[_Rule],
    exclude: list[_Rule],
    success: str,
    failure: str,
    records: list[AccessRecord],
) -> None:
    options = LogOptions(
        include=_text(include), exclude=_text(exclude), success=success, failure=failure
    )
    selection = RecordFilter(options)
    for record in records:
        wanted = (
            (not include or _matches(include, record))
            and not _matches(exclude, record)
            and _listed(success if record.result == OK else failure, record.op)
        )
        verdict = selection.of(record.op)
        kept = verdict(record) if callable(verdict) else verdict == ALWAYS
        assert kept == wanted, (options, record)


@pytest.mark.parametrize(
    ("options", "never", "always"),
    [
        (LogOptions(), (), OPERATIONS),
        (LogOptions(include="op=unlink|rename"), ("read", "lookup"), ("unlink", "rename")),
        (LogOptions(exclude="op=read; op=write uid=0"), ("read",), ("lookup", "unlink")),
        (LogOptions(include="result=ok", success="write", failure="none"), ("read",), ()),
        (LogOptions(include="result=failed", success="all", failure="none"), OPERATIONS, ()),
        (LogOptions(success="all !read", failure="all !read"), ("read",), ("write",)),
    ],
)
def test_what_is_certain_is_known_beforehand(
    options: LogOptions, never: tuple[str, ...], always: tuple[str, ...]
) -> None:
    selection = RecordFilter(options)
    assert all(selection.of(op) == NEVER for op in never)
    assert all(selection.of(op) == ALWAYS for op in always)


def test_a_negative_list_begins_with_all() -> None:
    selection = RecordFilter(LogOptions(success="!read !getattr", failure="none"))
    failed = AccessRecord(op="write", result=errno.errorcode[errno.EIO])
    verdict = selection.of("write")
    assert callable(verdict)
    assert verdict(AccessRecord(op="write", result=OK))
    assert not verdict(failed)
    assert selection.of("read") == NEVER


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"include": "op=wrte"},
            "invalid include=, rule 1 .op=wrte.: unknown operation 'wrte'; did you mean write",
        ),
        ({"exclude": "op=read; uid=x"}, "invalid exclude=, rule 2 .uid=x.: 'x' is not a number"),
        ({"exclude": "uid=-1"}, "not a number from 0 to"),
        ({"exclude": "uid=99999999999"}, "not a number from 0 to"),
        (
            {"include": "user=0"},
            "unknown condition 'user=0'; expected KEY=VALUE with one of the keys op, path",
        ),
        ({"include": "write"}, "unknown condition 'write'"),
        ({"include": "op="}, "op= needs a value"),
        ({"include": "op=read||write"}, "op= needs a value"),
        ({"include": "path='/a"}, "missing closing '"),
        ({"include": "path~=(x"}, "invalid regular expression: missing"),
        ({"include": "path=[z-a]"}, "bad character range"),
        ({"include": "result=fine"}, "invalid result 'fine'"),
        (
            {"success": "all !raed"},
            "invalid success=all !raed: unknown operation '!raed'; did you mean read",
        ),
        ({"failure": "wrote"}, "invalid failure=wrote: unknown operation 'wrote'"),
    ],
)
def test_what_means_nothing_is_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check(msgspec.convert(options, LogOptions))


def test_what_is_in_force_can_be_said_again() -> None:
    options = LogOptions(include="path='/a b'", failure="all !read", coalesce=2.0, chain=True)
    assert RecordFilter(options).text == (
        """include='path='"'"'/a b'"'"'' failure='all !read' coalesce=2"""
    )
    assert RecordFilter(LogOptions(chain=True)).text == ""


@pytest.mark.parametrize(
    ("rule", "known", "untold"),
    [
        ("container=web", {"container": "db"}, {"container": "?", "identity_error": "EMFILE"}),
        ("container=-", {"container": "db"}, {"container": "?", "identity_error": "invisible"}),
        ("comm=bash", {"comm": "sh"}, {"identity_error": "ENOENT"}),
        ("pid=1", {"pid": 2}, {"pid": 0, "identity_error": "invisible"}),
        ("path=secret", {"path": "/a/b"}, {"path": "/a//...9000...//b"}),
        ("path~=secret", {"path": "/a/b"}, {"path": "/a//...9000...//b"}),
        ("to~=secret", {"to": "/a/b"}, {"to": "/a//...9000...//b"}),
    ],
)
def test_what_a_record_does_not_tell_keeps_no_record_out(
    rule: str, known: dict[str, object], untold: dict[str, object]
) -> None:
    include = RecordFilter(LogOptions(include=rule)).of("mkdir")
    exclude = RecordFilter(LogOptions(exclude=rule)).of("mkdir")
    assert callable(include)
    assert callable(exclude)
    plain = msgspec.structs.replace(_PLAIN, **known)
    assert not include(plain)
    assert exclude(plain)
    unclear = msgspec.structs.replace(_PLAIN, **untold)
    assert include(unclear)
    assert exclude(unclear)


_PLAIN = AccessRecord(
    "2026-11-23T10:00:00.000000Z", 1, "data", "mkdir", "/x", result=OK, us=1, pid=3, comm="ls"
)
