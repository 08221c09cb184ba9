"""Every way of mounting is checked by one preflight before a keeper is started."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from fusevol.cli import mount_helper
from fusevol.cli.main import cli
from fusevol.containers.state import Container
from fusevol.errors import FusevolError
from fusevol.options.binding import Binding
from fusevol.options.config import MountConfig
from fusevol.options.volume_words import VolumeOptions
from fusevol.processes import starting
from fusevol.runtime.volumes import ServedVolumes
from fusevol.server.served_volume import ServedVolume
from fusevol.server.store import StoredVolume


def by_mount(source: str, mountpoint: str) -> None:
    CliRunner().invoke(cli, ["mount", source, mountpoint], catch_exceptions=False)


def by_mount_in_foreground(source: str, mountpoint: str) -> None:
    CliRunner().invoke(cli, ["mount", "-f", source, mountpoint], catch_exceptions=False)


def by_mount_helper(source: str, mountpoint: str) -> None:
    mount_helper._run([source, mountpoint, "-o", "nofail"])


def by_serve(source: str, _mountpoint: str) -> None:
    """As for `fusevol serve`, Docker, Podman, attach and hooks, which ask the daemon."""
    stored = StoredVolume("data", "", VolumeOptions(source=source))
    ServedVolume(stored, Mock(), Mock())._prepare()


def by_run(source: str, _mountpoint: str) -> None:
    binding = Binding(source, "/data")
    container = Container("0" * 64, "c", "", command=["x"], lowers=[], bindings=[binding])
    ServedVolumes(container)._serve(binding)


@pytest.mark.parametrize(
    "way", [by_mount, by_mount_in_foreground, by_mount_helper, by_serve, by_run]
)
def test_every_way_of_mounting_is_checked(
    way: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("RUNTIME", "STATE", "LOG"):
        monkeypatch.setenv(f"FUSEVOL_{variable}_DIRECTORY", str(tmp_path / variable))
    monkeypatch.setattr(signal, "signal", Mock())
    monkeypatch.setattr("trio.current_time", lambda: 0.0)
    source, mountpoint = tmp_path / "source", tmp_path / "mountpoint"
    source.mkdir()
    mountpoint.mkdir()
    checked: list[MountConfig] = []

    def refuse(config: MountConfig, **_how: Any) -> None:
        checked.append(config)
        raise FusevolError("the first finding")

    monkeypatch.setattr(starting, "check", refuse)
    monkeypatch.setattr(starting, "_start", Mock(side_effect=AssertionError("it is mounted")))
    with pytest.raises(FusevolError, match="the first finding"):
        way(str(source), str(mountpoint))
    assert {config.source for config in checked} == {str(source)}
    assert not (tmp_path / "LOG").exists()
