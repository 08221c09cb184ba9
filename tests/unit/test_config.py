"""The words after -o."""

import pytest

from fusevol.errors import UnsupportedError, UsageError
from fusevol.model import OnLogFailure, RecordLevel
from fusevol.options.config import DEFAULT_FLAGS, MountConfig, flags_in, source_flags
from fusevol.options.mount_words import Options, parse_options

NOEXEC, NOSYMFOLLOW, NOATIME, RELATIME, STRICTATIME = 8, 256, 1024, 1 << 21, 1 << 24


def test_nothing_said_is_the_default() -> None:
    assert parse_options("") == Options()
    assert Options().flags == DEFAULT_FLAGS


def test_values() -> None:
    options = parse_options("name=data,log=/var/log/a\\,b,record=data,on_log_failure=deny")
    assert options.name == "data"
    assert options.log == "/var/log/a,b"
    assert options.record is RecordLevel.DATA
    assert options.on_log_failure is OnLogFailure.DENY


@pytest.mark.parametrize(
    ("text", "set_bits", "cleared"),
    [
        ("ro", 1, 0),
        ("ro,rw", 0, 1),
        ("suid", 0, 2),
        ("dev,noexec", 8, 4),
        ("nosuid,nodev", 6, 0),
        ("noatime,nodiratime", NOATIME | 2048, 0),
        ("noatime,atime,relatime", RELATIME, NOATIME),
        ("strictatime", STRICTATIME, 0),
        ("relatime,norelatime", 0, RELATIME),
        ("nosymfollow", NOSYMFOLLOW, 0),
        ("lazytime", 1 << 25, 0),
    ],
)
def test_flags(text: str, set_bits: int, cleared: int) -> None:
    flags = parse_options(text).flags
    assert flags & set_bits == set_bits
    assert not flags & cleared


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("5", 5.0), ("0.5", 0.5), ("0", 0.0), ("30s", 30.0), ("1m", 60.0), ("1e1", 10.0)],
)
def test_deadline(value: str, seconds: float) -> None:
    assert parse_options(f"deadline={value}").deadline == seconds


@pytest.mark.parametrize("value", ["-1", "0.05", "nan", "inf", "soon", "1e9", "2h"])
def test_a_deadline_that_cannot_be_meant(value: str) -> None:
    with pytest.raises(UsageError, match="deadline"):
        parse_options(f"deadline={value}")


@pytest.mark.parametrize("text", ["allow_other", "private"])
def test_who_may_use_it(text: str) -> None:
    assert parse_options(text).allow_other is (text == "allow_other")


def test_words_for_mount_and_systemd_are_left_to_them() -> None:
    words = "defaults,nofail,_netdev,noauto,user,async,x-systemd.idle-timeout=1min,X-mount.mkdir=1"
    assert parse_options(words) == Options()


@pytest.mark.parametrize("word", ["cache", "record", "uid=5", "ro=1", "Record=all", "=", "name="])
def test_anything_else_is_refused_by_name(word: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_options(f"ro,{word}")
    assert word.partition("=")[0] in str(raised.value)


def test_levels() -> None:
    assert parse_options("record=all").record is RecordLevel.ALL
    with pytest.raises(UnsupportedError, match="open"):
        parse_options("record=open")
    with pytest.raises(UsageError, match="invalid record=some: expected all or data"):
        parse_options("record=some")
    with pytest.raises(UsageError, match="expected continue or deny"):
        parse_options("on_log_failure=ignore")


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ({"rw", "nosuid", "noexec", "relatime"}, 2 | NOEXEC | RELATIME),
        ({"ro", "noatime", "nodiratime", "nosymfollow"}, 1 | NOATIME | 2048 | NOSYMFOLLOW),
        ({"rw"}, STRICTATIME),
    ],
)
def test_flags_of_a_mount(line: set[str], flags: int) -> None:
    assert flags_in(line) == flags


def asked_for(words: str) -> MountConfig:
    options = parse_options(words)
    return MountConfig("/s", "/m", "n", "none", flags=options.flags, allowed=options.allowed)


@pytest.mark.parametrize(
    ("words", "source", "below", "flags"),
    [
        ("", NOEXEC | NOATIME, [], NOEXEC | NOATIME),
        ("exec,strictatime", NOEXEC | NOATIME, [], NOEXEC),
        ("", 0, [1 | NOEXEC | RELATIME, NOSYMFOLLOW], NOEXEC | NOSYMFOLLOW),
        ("exec", 0, [NOEXEC | NOSYMFOLLOW], NOSYMFOLLOW),
        ("exec,noexec", 0, [NOEXEC], NOEXEC),
        ("suid,dev", 1, [2, 4], 1 | 2 | 4),
    ],
)
def test_what_a_source_forbids(words: str, source: int, below: list[int], flags: int) -> None:
    assert source_flags(asked_for(words), source, below) == flags
