"""The words about a log mean the same wherever they stand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusevol.errors import UsageError
from fusevol.options.kinds import parse_size, parse_time
from fusevol.options.log import Compression, LogFormat, LogOptions
from fusevol.options.log_words import LOG_WORDS, as_words, changed
from fusevol.options.mount_words import parse_options
from fusevol.server.settings import options_of
from fusevol.server.volume_options import parse

OPTIONS = st.builds(
    LogOptions,
    format=st.sampled_from(LogFormat),
    sinks=st.lists(st.sampled_from(["journald", "stdout", "unix:/x"]), unique=True).map(tuple),
    include=st.sampled_from(["", "op=write; path=/etc"]),
    exclude=st.sampled_from(["", "uid=0"]),
    success=st.sampled_from(["", "all !read"]),
    failure=st.sampled_from(["", "none"]),
    coalesce=st.integers(0, 60).map(float),
    chain=st.booleans(),
    rotate_size=st.just(0) | st.integers(4096, 2**40),
    rotate_age=st.integers(0, 10**9 - 1).map(float),
    compress=st.sampled_from(Compression),
    keep_files=st.integers(0, 10**9 - 1),
    keep_age=st.integers(0, 10**9 - 1).map(float),
    quota=st.just(0) | st.integers(4096, 2**40),
    space_warn=st.integers(0, 2**40),
    space_act=st.integers(0, 2**40),
)


@given(OPTIONS)
def test_as_words_and_back(options: LogOptions) -> None:
    again = LogOptions()
    for key, value in as_words(options).items():
        again = changed(again, key, value)
    assert again == options


@pytest.mark.parametrize("key", LOG_WORDS)
def test_nothing_is_the_default(key: str) -> None:
    if key != "chain":
        assert changed(LogOptions(), key, "") == LogOptions()


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("1K", 1024), ("500m", 500 << 20), ("2GiB", 2 << 30), ("1 TB", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400), ("4w", 2419200)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "word",
    ["rotate_size=3", "rotate_size=big", "quota=-1", "rotate_age=soon", "keep_files=1.5",
     "coalesce=2h", "compress=gzip", "format=xml", "chain=perhaps", "space_warn=10%"],
)  # fmt: skip
def test_what_cannot_be_meant_is_named(word: str) -> None:
    with pytest.raises(UsageError, match=word.partition("=")[0]):
        parse_options(word)


def test_in_all_places() -> None:
    expected = LogOptions(sinks=("journald", "stdout"), rotate_size=1 << 20, chain=True)
    assert parse_options("sinks=journald+stdout,rotate_size=1M,chain").logging == expected
    words = options_of({"sinks": ["journald", "stdout"], "rotate_size": 1 << 20, "chain": True})
    assert parse(words).logging == expected
    assert parse({"rotate_size": ""}, parse(words)).logging.rotate_size == 0


@pytest.mark.parametrize(
    ("options", "log", "named"),
    [
        (LogOptions(keep_files=3), "/x", "keep_files"),
        (LogOptions(compress=Compression.ZSTD), "/x", "compress"),
        (LogOptions(sinks=("journald",)), "none", "sinks"),
        (LogOptions(rotate_size=5000), "-", "rotate_size"),
    ],
)
def test_what_makes_no_sense_together(options: LogOptions, log: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        options.check(log)
