"""A source that may answer late, as on a network file system: here the mount of another volume."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.served import Served, needs_root, serve

pytestmark = needs_root


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[tuple[Served, Served]]:
    """An inner volume, and an outer one whose source it is."""
    with serve(tmp_path) as inner:
        outer = tmp_path / "outer"
        outer.mkdir()
        (outer / "source").symlink_to(inner.mountpoint)
        with serve(outer) as served:
            yield inner, served


def test_everything_works_through_both(nested: tuple[Served, Served]) -> None:
    inner, outer = nested
    (outer.mountpoint / "directory").mkdir()
    file = outer.mountpoint / "directory" / "file"
    with file.open("wb") as writing:
        writing.write(b"content")
        os.fsync(writing.fileno())
    assert file.read_bytes() == b"content"
    os.chmod(file, 0o640)
    file.rename(outer.mountpoint / "moved")
    assert (inner.source / "moved").read_bytes() == b"content"
    assert os.listdir(outer.mountpoint / "directory") == []
    with ThreadPoolExecutor(8) as pool:
        names = [outer.mountpoint / f"file-{number}" for number in range(100)]
        list(pool.map(lambda path: path.write_text(path.name), names))
        assert [path.read_text() for path in names] == [path.name for path in names]
    assert sorted(os.listdir(outer.mountpoint)) == sorted(os.listdir(inner.source))
    for path in names:
        path.unlink()
    assert sorted(os.listdir(inner.source)) == ["directory", "moved"]
