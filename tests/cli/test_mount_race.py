"""Mounts that are made while another process mounts at the same place, or that fail."""

import os
from pathlib import Path

import pytest

from fusevol.errors import UsageError
from fusevol.mounts import registry
from fusevol.mounts.configure import configure
from fusevol.mounts.mount_lock import alone_at
from fusevol.options.mount_words import parse_options
from fusevol.processes import starting
from tests.served import Served, fusevol, is_mounted, needs_root, serve

pytestmark = needs_root


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory of its own, which is not there yet."""
    path = tmp_path / "run"
    monkeypatch.setenv("FUSEVOL_RUNTIME_DIRECTORY", str(path))
    return path


def _again(served: Served, *options: str) -> str:
    done = fusevol(
        "mount", served.source, served.mountpoint, "--log", "none", *options, check=False
    )
    assert done.returncode != 0
    return done.stderr


def test_one_process_at_a_time_mounts_at_a_place(tmp_path: Path, runtime: Path) -> None:
    for name in ("source", "volume"):
        (tmp_path / name).mkdir()
    served = Served(tmp_path / "source", tmp_path / "volume", tmp_path / "log")
    with alone_at(str(served.mountpoint)):
        assert "another process is mounting there" in _again(served)
        assert not is_mounted(served.mountpoint)
    assert os.listdir(runtime) == []


def test_who_comes_second_does_not_mount_over_the_first(tmp_path: Path, runtime: Path) -> None:
    """Its checks were made before the first one had mounted."""
    with serve(tmp_path) as served:
        config = configure(
            str(served.source),
            str(served.mountpoint),
            parse_options("log=none,name=second"),
            in_background=True,
        )
        with pytest.raises(UsageError, match="already a fusevol mount"):
            starting.start(config, registry.messages_path(config.mountpoint))
        entry = registry.get(config.mountpoint)
        assert entry is not None
        assert entry.log == str(served.log)
        served.unmount()
        assert not is_mounted(served.mountpoint)
    assert [name for name in os.listdir(runtime) if name.endswith(".messages")] == []


def test_a_mount_that_fails_leaves_nothing_in_the_runtime_directory(
    tmp_path: Path, runtime: Path
) -> None:
    (tmp_path / "second").mkdir()
    with serve(tmp_path) as served:
        done = fusevol(
            "mount", served.source, tmp_path / "second", "--log", served.log, check=False
        )
        assert "in use by another mount" in done.stderr
        assert not os.path.exists(registry.messages_path(str(tmp_path / "second")))


def test_what_only_asks_makes_no_runtime_directory(runtime: Path) -> None:
    registry.remove("/nowhere")
    assert registry.get("/nowhere") is None
    registry.messages_path("/nowhere")
    assert not runtime.exists()
