"""What is nested deeply, and text that invalid character, is refused in one line."""

import subprocess
from pathlib import Path

import msgspec
import pytest

from fusevol.binding import podman_hooks
from fusevol.binding.creating import read_state
from fusevol.errors import UsageError
from fusevol.mounts import encoding
from fusevol.server.settings import load
from tests.served import FUSEVOL, fusevol

DEEP = 50_000
TOML = ["a = " + "[" * DEEP + "]" * DEEP, "a = " + "{a=" * DEEP + "1" + "}" * DEEP]


@pytest.mark.parametrize("text", TOML)
def test_a_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fusevol.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="nested too deeply"):
        load(str(path))
    done = fusevol("serve", "--check", "--config", path, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_state_of_a_container() -> None:
    for data in (b"[" * DEEP, b'{"annotations":' + b'{"a":' * DEEP, b'{"more":' + b"[" * DEEP):
        with pytest.raises(UsageError, match="is not the state of a container"):
            read_state(data)


def test_a_message() -> None:
    for data in (b"[" * DEEP, b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP):
        with pytest.raises(msgspec.DecodeError):
            encoding.decode(data, dict)


@pytest.mark.parametrize("text", [r"\ud800", r"\uDBFF", r"\udc00", r"\uDFFF", r"\ud800\u0061"])
def test_text_that_stands_for_no_bytes(text: str) -> None:
    with pytest.raises(msgspec.DecodeError, match="invalid character"):
        encoding.decode(f'{{"a":"{text}"}}'.encode(), dict)
    with pytest.raises(msgspec.DecodeError, match="invalid character"):
        encoding.decode(f'{{"{text}":1}}'.encode(), dict)


@pytest.mark.parametrize("name", ["\udc80", "\udcff/\udc80", "\\ud800", "\U0001f600", "\\"])
def test_names_of_any_bytes_are_taken(name: str) -> None:
    assert encoding.decode(encoding.encode([name]), list) == [name]


def test_the_configuration_of_podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTAINERS_CONF", raising=False)
    path = tmp_path / "containers.conf"
    path.write_text(TOML[0])
    assert podman_hooks.hook_directories([str(path)], "") == [podman_hooks.DEFAULT_DIRECTORY]


def test_a_line_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b'{"time":"2026-11-24T02:03:07.816699Z","seq":' + b"[" * DEEP + b"\n")
    for words in (["show"], ["stats"], ["verify"], ["tail"]):
        done = subprocess.run(
            [FUSEVOL, "log", *words, log], capture_output=True, text=True, timeout=60, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr[-2000:]
