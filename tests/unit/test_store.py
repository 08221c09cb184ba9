import os
from pathlib import Path

import pytest

from fusevol.errors import FusevolError
from fusevol.linux.process import start_ticks
from fusevol.options.volume_words import VolumeOptions
from fusevol.server import store
from fusevol.server.store import Reference, StoredVolume

ODD = os.fsdecode(b"/srv/\xff\n")
VOLUMES = [
    StoredVolume("a", "2026-01-01T00:00:00Z", VolumeOptions(source=ODD, ro=True)),
    StoredVolume("b", "2026-01-01T00:00:00Z", VolumeOptions(), anonymous=True),
]


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("state", "runtime"):
        monkeypatch.setenv(f"FUSEVOL_{name.upper()}_DIRECTORY", str(tmp_path / name))
    return tmp_path


def test_nothing_is_kept_at_first() -> None:
    assert store.load_volumes() == []
    assert store.load_references() == {}


def test_volumes_and_references_come_back(directories: Path) -> None:
    references = {"a": {"holder": Reference(2, 17, 99, 1.5, True)}}
    store.save_volumes(VOLUMES)
    store.save_references(references)
    assert store.load_volumes() == VOLUMES
    assert store.load_references() == references
    assert (directories / "state/volumes.json").stat().st_mode & 0o777 == 0o600


def test_a_write_that_was_cut_off_changes_nothing(directories: Path) -> None:
    store.save_volumes(VOLUMES)
    (directories / "state/volumes.json.new").write_bytes(b'{"schema":1,"volu')
    assert store.load_volumes() == VOLUMES
    store.save_volumes(VOLUMES[:1])
    assert store.load_volumes() == VOLUMES[:1]


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"schema":1,"volumes":[{"name":"a"}]}', "cannot be read"),
        ('{"schema":2,"volumes":[]}', "newer fusevol"),
    ],
)
def test_what_cannot_be_read_is_not_taken_for_nothing(
    directories: Path, content: str, wrong: str
) -> None:
    store.save_volumes([])
    (directories / "state/volumes.json").write_text(content)
    with pytest.raises(FusevolError, match=wrong):
        store.load_volumes()


def test_discarded_data_are_out_of_the_way_at_once_and_then_gone(directories: Path) -> None:
    store.make_data_directory("a")
    outside = directories / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    os.symlink(outside, Path(store.data_directory("a")) / "link")
    assert store.discard_data("a")
    assert not os.path.exists(store.data_directory("a"))
    store.empty_trash()
    assert not (directories / "state/trash").exists()
    assert (outside / "kept").exists()
    assert not store.discard_data("a")


def test_a_reference_ends_with_its_process() -> None:
    here = Reference(1, os.getpid(), start_ticks(os.getpid()))
    assert not here.has_ended
    assert Reference(1, os.getpid(), 1).has_ended
    assert not Reference(1).has_ended
