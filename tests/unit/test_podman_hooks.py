"""Hooks that Podman finds, and those that it does not."""

import json
from pathlib import Path

import pytest

from fusevol.binding.podman_hooks import DEFAULT_DIRECTORY, HookFile, hook_directories, hook_files
from fusevol.doctor import CheckState, check_hooks
from fusevol.plugin.specs import hooks_d


@pytest.fixture(autouse=True)
def _no_configuration_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTAINERS_CONF", raising=False)
    monkeypatch.delenv("CONTAINERS_CONF_OVERRIDE", raising=False)


def configured(tmp_path: Path, *texts: str) -> list[str]:
    paths = []
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.conf"
        path.write_text(text)
        paths.append(str(path))
    return hook_directories([paths[0]], str(tmp_path / "[1-9].conf"))


def test_podman_reads_one_directory_unless_told(tmp_path: Path) -> None:
    assert configured(tmp_path, "[engine]\n") == [DEFAULT_DIRECTORY]
    assert hook_directories([str(tmp_path / "none")], "") == [DEFAULT_DIRECTORY]


@pytest.mark.parametrize("text", ["not = [toml", "engine = 1", "[engine]\nhooks_dir = 1", "\xff"])
def test_a_configuration_that_says_nothing_changes_nothing(tmp_path: Path, text: str) -> None:
    assert configured(tmp_path, text) == [DEFAULT_DIRECTORY]


def test_the_last_configuration_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ('[engine]\nhooks_dir = ["/a"]', '[engine]\nhooks_dir = ["/b", "/c"]', "[engine]\n")
    assert configured(tmp_path, *texts) == ["/b", "/c"]
    override = tmp_path / "override"
    override.write_text('[engine]\nhooks_dir = ["/d"]')
    monkeypatch.setenv("CONTAINERS_CONF", str(override))
    assert configured(tmp_path, *texts) == ["/d"]


def test_our_hooks_are_found_wherever_they_lie(tmp_path: Path) -> None:
    read, usual = tmp_path / "read", tmp_path / "usual"
    ours = hooks_d(["data"])
    ours["hook"]["path"] = "/usr/bin/fusevol"
    for directory in (read, usual):
        directory.mkdir()
        (directory / "fusevol.json").write_text(json.dumps(ours))
    (read / "other.json").write_text(
        '{"when": {"annotations": {"x": ".*"}}, "hook": {"path": "/x"}}'
    )
    (read / "always.json").write_text('{"when": {"always": true}, "hook": {"path": "/x"}}')
    (read / "broken.json").write_text("{")
    assert hook_files([str(read)], [str(usual), str(tmp_path / "missing")]) == [
        HookFile(str(read / "fusevol.json"), "/usr/bin/fusevol", is_read=True),
        HookFile(str(usual / "fusevol.json"), "/usr/bin/fusevol", is_read=False),
    ]


def test_a_hook_that_is_not_run_is_a_warning() -> None:
    read, unread, gone = check_hooks(
        [
            HookFile("/a/fusevol.json", "/bin/sh", is_read=True),
            HookFile("/etc/containers/oci/hooks.d/fusevol.json", "/bin/sh", is_read=False),
            HookFile("/a/old.json", "/nowhere/fusevol", is_read=True),
        ]
    )
    assert read.state is CheckState.OK
    assert unread.state is gone.state is CheckState.WARNING
    assert "start without them" in unread.costs
    assert unread.advice.startswith("mkdir -p ")
    assert gone.found == "/a/old.json calls /nowhere/fusevol, which cannot be executed"
