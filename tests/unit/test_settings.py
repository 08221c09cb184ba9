import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusevol.errors import FusevolError, NotFoundError, UnsupportedError, UsageError
from fusevol.model import OnLogFailure, RecordLevel
from fusevol.options.volume_words import KNOWN, VolumeOptions
from fusevol.server import volume_options
from fusevol.server.settings import PLUGIN_SOCKET, Settings, load, options_of, with_listen


def written(directory: Path, text: str) -> str:
    path = directory / "fusevol.toml"
    path.write_text(text)
    return str(path)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    settings = load(written(tmp_path, ""))
    assert settings == Settings()
    assert settings.idle_timeout == 10.0
    assert settings.docker.socket == PLUGIN_SOCKET


def test_everything_can_be_said(tmp_path: Path) -> None:
    settings = load(
        written(
            tmp_path,
            'idle_timeout = 2\n[docker]\nenabled = false\nsocket = "/run/x.sock"\n'
            '[volumes.data]\nsource = "/srv/data"\nro = true\nrecord = "data"\ndeadline = 2.5\n',
        )
    )
    assert settings.idle_timeout == 2.0
    assert not settings.docker.is_enabled
    options = volume_options.parse(options_of(settings.volumes["data"]))
    assert options == VolumeOptions(
        source="/srv/data", ro=True, record=RecordLevel.DATA, deadline=2.5
    )


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("idle_timeout = ", "Invalid value"),
        ("idle_timeout = -1", "idle_timeout"),
        ('idle_timeout = "10"', "idle_timeout"),
        ("idle = 10", "idle"),
        ('[docker]\nsocket = "here.sock"', "absolute"),
        ("[docker]\nport = 1", "port"),
        ("volumes = []", "volumes"),
        ('[metrics]\nlisten = "0.0.0.0:10469"', "metrics.listen = '0.0.0.0:10469': containers"),
        ('[metrics]\nlisten = "[::]:10469"', "set a metrics.token_file"),
        ('[metrics]\nlisten = "host:10469"', "an IP address and a port"),
        ('[metrics]\nlisten = "10469"', "an IP address and a port"),
        ('[metrics]\nlisten = "127.0.0.1:65536"', "'65536' is not a port"),
        ('[metrics]\nlisten = "unix:here.sock"', "an IP address and a port"),
        ('[metrics]\ntoken_file = "here"', "absolute"),
        ('[metrics]\notlp = "collector:4318"', "a URL"),
        ("[metrics]\ninterval = 0.5", "interval"),
        ("[volumes.data]\nsource = 5", "volume data: invalid source=5: expected a string"),
        ("[volumes.data]\nsize = '1G'", "volume data: unknown volume option 'size'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, wrong: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError, match=wrong) as caught:
        load(path)
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:10469", ("127.0.0.1", 10469)),
        ("127.9.9.9:0", ("127.9.9.9", 0)),
        ("localhost:10469", ("127.0.0.1", 10469)),
        ("[::1]:10469", ("::1", 10469)),
        ("unix:/run/metrics.sock", "/run/metrics.sock"),
    ],
)
def test_metrics_are_private_without_a_token(
    tmp_path: Path, listen: str, address: str | tuple[str, int]
) -> None:
    settings = load(written(tmp_path, f'[metrics]\nlisten = "{listen}"\n'))
    assert settings.metrics.address() == address
    assert with_listen(Settings(), listen).metrics.address() == address


def test_who_has_a_token_may_come_from_anywhere(tmp_path: Path) -> None:
    text = '[metrics]\nlisten = "0.0.0.0:10469"\ntoken_file = "/etc/fusevol/metrics.token"\n'
    assert load(written(tmp_path, text)).metrics.address() == ("0.0.0.0", 10469)
    with pytest.raises(UsageError, match="token_file"):
        with_listen(Settings(), "0.0.0.0:10469")


def test_a_file_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        load(str(tmp_path / "none.toml"))


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, errors="replace")
    try:
        settings = load(str(path))
    except FusevolError:
        return
    assert settings == msgspec.convert(tomllib.loads(path.read_text()), Settings)


def test_options_are_parsed_over_what_was_there() -> None:
    before = volume_options.parse({"device": "/srv//a/", "read-only": "yes"})
    assert before == VolumeOptions(source="/srv/a", ro=True)
    after = volume_options.parse({"ro": "false", "on_log_failure": "deny"}, before)
    assert after == VolumeOptions(source="/srv/a", on_log_failure=OnLogFailure.DENY)


@pytest.mark.parametrize(
    ("words", "error", "wrong"),
    [
        ({"size": "10G"}, UsageError, "unknown volume option 'size'; known are source"),
        ({"source": "relative"}, UsageError, "absolute"),
        ({"source": "/a", "device": "/b"}, UsageError, "given twice"),
        ({"source": "/a\0b"}, UsageError, "NUL"),
        ({"ro": "maybe"}, UsageError, "true or false"),
        ({"record": "some"}, UsageError, "invalid record=some: expected all or data"),
        ({"record": "open"}, UnsupportedError, "not available"),
        ({"subpath": "../x"}, UsageError, "below the source"),
        ({"subpath": "a/../../x"}, UsageError, "below the source"),
        ({"subpath": "/etc"}, UsageError, "below the source"),
        ({"log": "here.log"}, UsageError, "absolute"),
        ({"on_log_failure": "panic"}, UsageError, "continue or deny"),
    ],
)
def test_wrong_options_are_refused(
    words: dict[str, str], error: type[FusevolError], wrong: str
) -> None:
    with pytest.raises(error, match=wrong):
        volume_options.parse(words)


@given(st.dictionaries(st.sampled_from((*KNOWN, "device", "x")), st.text(max_size=30)))
def test_any_options_are_parsed_or_refused(words: dict[str, str]) -> None:
    try:
        options = volume_options.parse(words)
    except FusevolError:
        return
    assert options.source == "" or options.source.startswith("/")
    assert ".." not in options.subpath.split("/")
    assert not options.subpath.startswith("/")
    assert "\0" not in repr(options)


def test_what_a_package_is_missing_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UnsupportedError, match=r"fusevol\[zstd\]"):
        volume_options.parse({"compress": "zstd", "rotate_size": "1M"})
