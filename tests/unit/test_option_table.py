"""The table of options: what it says is what holds, wherever an option is written."""

import re
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from fusevol.cli import volume
from fusevol.cli.main import cli
from fusevol.errors import UsageError
from fusevol.options.config import DEFAULT_FLAGS, MountConfig
from fusevol.options.log import LogOptions
from fusevol.options.log_words import LOG_WORDS
from fusevol.options.mount_words import Options, parse_options
from fusevol.options.table import FLAGS, OPTIONS, Option, Place, options_of
from fusevol.options.volume_words import VolumeOptions
from fusevol.server import volume_options
from fusevol.server.served_volume import ServedVolume
from fusevol.server.settings import options_of as options_of_toml
from fusevol.server.store import StoredVolume

EXAMPLES = {
    "source": "/srv/data", "subpath": "a/b", "name": "data", "log": "/var/log/data.log",
    "record": "data", "on_log_failure": "deny", "deadline": "1m", "include": "op=read",
    "exclude": "uid=0", "success": "all !read", "failure": "none", "coalesce": "2s",
    "format": "ecs", "sinks": "journald+stdout", "rotate_size": "500M", "rotate_age": "1d",
    "compress": "none", "keep_files": "3", "keep_age": "4w", "quota": "2GiB", "space_warn": "1G",
    "space_act": "500m",
}  # fmt: skip
"""Option with a value -> one that it takes."""
NEEDS_ROTATION = {"keep_files", "keep_age", "space_act"}

every_option = pytest.mark.parametrize("option", OPTIONS, ids=lambda one: one.name)


def test_what_is_kept_of_options_is_in_the_table() -> None:
    assert set(LOG_WORDS) == set(LogOptions.__struct_fields__)
    kept = set(VolumeOptions.__struct_fields__) - {"logging"} | set(LOG_WORDS)
    assert set(options_of(Place.VOLUME)) == kept
    said = set(Options.__struct_fields__) - {"logging", "flags", "allowed"} | set(LOG_WORDS)
    assert {one.name for one in options_of(Place.MOUNT).values() if not one.flag} == said


def test_flags_that_are_told_to_be_the_default_are() -> None:
    for option in OPTIONS:
        for word in option.default.split(","):
            if word in FLAGS:
                flag, sets = FLAGS[word]
                assert bool(DEFAULT_FLAGS & flag) is sets, word


@pytest.mark.parametrize("option", LOG_WORDS.values(), ids=lambda one: one.name)
def test_the_default_that_is_told_is_the_default(option: Option) -> None:
    default, told = getattr(LogOptions(), option.name), option.default
    if told in option.kind.choices:
        assert option.parse(told) == default
    else:
        assert told in ("none", "all", "never", "nowhere", "everything", "nothing", "for ever")
        assert not default


@pytest.mark.parametrize("name", ["record", "on_log_failure"])
def test_the_default_that_is_told_is_that_of_mounts_and_volumes(name: str) -> None:
    option = options_of(Place.BOTH)[name]
    mount = MountConfig("/srv", "/mnt", "data", "none")
    told = option.parse(option.default)
    assert (mount.level if name == "record" else mount.on_log_failure) == told
    assert getattr(VolumeOptions(), name) == told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ro", "chain", "deadline=1m"), {"ro": "true", "chain": "true", "deadline": "1m"}),
        (("suid=no",), {"suid": "no"}),
    ],
)
def test_a_volume_takes_what_is_true_by_its_name(
    words: tuple[str, ...], said: dict[str, str]
) -> None:
    assert volume._said(words, None, None) == said


@pytest.mark.parametrize(
    ("word", "why"), [("deadline", "expected NAME=VALUE"), ("deadlin", "did you mean deadline?")]
)
def test_a_volume_option_without_its_value_is_refused(word: str, why: str) -> None:
    with pytest.raises(UsageError, match=re.escape(why)):
        volume._said((word,), None, None)


@every_option
def test_it_means_the_same_everywhere(option: Option) -> None:
    if option.name not in EXAMPLES:
        assert option.can_be_bare
        return
    text = EXAMPLES[option.name]
    rotating = {"rotate_size": "1M"} if option.name in NEEDS_ROTATION else {}
    values: list[Any] = []
    if option.place & Place.MOUNT:
        values.append(parse_options(f"{option.name}={text}"))
    if option.place & Place.VOLUME:
        said = {option.name: text}
        assert options_of_toml(said) == said
        values.append(volume_options.parse({**rotating, **said}))
        values.append(volume_options.parse({**rotating, option.name.replace("_", "-"): text}))
    found = [
        getattr(one.logging if option.name in LOG_WORDS else one, option.name) for one in values
    ]
    assert found == [option.parse(text)] * len(values)


@every_option
def test_what_completion_offers_is_taken(option: Option) -> None:
    for place in Place:
        for text in option.candidates(place) if option.place & place else []:
            _name, equals, value = text.partition("=")
            if place is Place.MOUNT and (value or not equals):
                parse_options(text)
            elif value:
                option.parse(value)


@pytest.mark.parametrize("option", options_of(Place.VOLUME).values(), ids=lambda one: one.name)
def test_a_served_volume_takes_what_the_table_says(option: Option) -> None:
    text = EXAMPLES.get(option.name, "true")
    mount = Mock(config=MountConfig("/srv", "/mnt", "data", "none"))
    rotating = {"rotate_size": "1M"} if option.name in NEEDS_ROTATION else {}
    mount.config.logging = volume_options.parse(rotating).logging
    options = volume_options.parse({**rotating, option.name: text})
    volume = Mock(_mount=mount, stored=StoredVolume("data", "", options))
    ServedVolume.follow_options(volume)
    # Compression by zstd takes a package that is not everywhere, and none is the default.
    assert mount.change.called is (option.changes_at_once(text) and option.name != "compress")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rotate_size=12x", "invalid rotate_size=12x: expected a size such as 500M"),
        ("rotate_size=3", "invalid rotate_size=3: expected at least 4096 bytes, or 0 for no limit"),
        ("keep_age=soon", "invalid keep_age=soon: expected a time such as 90s, 15m, 2h or 1d"),
        ("deadline=2h", "invalid deadline=2h: expected a time from 0.1s to 3600s such as 30s"),
        ("coalesce=2h", "invalid coalesce=2h: expected a time of at most 60s such as 2s"),
        ("keep_files=-1", "invalid keep_files=-1: expected a number, or 0 for all"),
        ("chain=perhaps", "invalid chain=perhaps: expected true or false"),
        ("compress=zst", "invalid compress=zst: expected none or zstd; did you mean zstd?"),
        ("format=jsn", "expected json, ecs, ocsf, juicefs or text; did you mean json?"),
        ("rotate-size=1M", "unknown mount option 'rotate-size=1M'; did you mean rotate_size?"),
        ("nosiud", "unknown mount option 'nosiud'; did you mean nosuid?"),
    ],
)
def test_an_error_says_what_is_expected(word: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        parse_options(word)


def test_what_a_volume_takes_is_said() -> None:
    with pytest.raises(UsageError, match="unknown volume option 'rotate'; did you mean rotate_"):
        volume_options.parse({"rotate": "1M"})
    with pytest.raises(UsageError, match="unknown volume option 'nosymfollow'; known are source, "):
        volume_options.parse({"nosymfollow": "true"})


@pytest.mark.parametrize("command", [["mount"], ["volume", "create"], ["volume", "update"]])
def test_help_names_every_option(command: list[str]) -> None:
    place = Place.MOUNT if command == ["mount"] else Place.VOLUME
    text = CliRunner().invoke(cli, [*command, "--help"]).output
    _, _, table = text.partition("Options after -o:")
    missing = [name for name in options_of(place) if not re.search(rf"\b{name}\b", table)]
    assert missing == []
    assert "powers of 1024" in re.sub(r"\s+", " ", table)


def test_flags_are_set_and_cleared_by_two_words_each() -> None:
    assert len(FLAGS) == 2 * len({flag for flag, _sets in FLAGS.values()})
    for word, (flag, sets) in FLAGS.items():
        assert bool(parse_options(word).flags & flag) is sets
