"""Removing directories, however deep, whatever is in them."""

import os
import socket
import threading
from pathlib import Path

from fusevol.containers.trees import remove_tree

DEPTH = 1100
"""Deeper than Python calls and, with names of four letters, than paths."""


def make_deep(directory: Path, name: str, depth: int) -> None:
    directory.mkdir()
    fd = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.close(fd)
        fd = below
    os.close(fd)


def test_any_depth_can_be_removed(tmp_path: Path) -> None:
    make_deep(tmp_path / "deep", "deep", DEPTH)
    remove_tree(tmp_path / "deep")
    assert list(tmp_path.iterdir()) == []


def test_directories_may_be_called_as_those_that_were_moved(tmp_path: Path) -> None:
    make_deep(tmp_path / "deep", "0", 100)
    remove_tree(tmp_path / "deep")
    assert list(tmp_path.iterdir()) == []


def test_links_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "link").symlink_to(outside)
    (tree / "a/dangling").symlink_to("none")
    (tree / "a/b/up").symlink_to("../../../outside")
    os.mkfifo(tree / "a/fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tree / "socket"))
    (tree / os.fsdecode(b"\xff\n")).mkdir()
    remove_tree(tree)
    assert not tree.exists()
    assert os.listdir(outside) == ["kept"]


def test_nothing_is_removed_already(tmp_path: Path) -> None:
    remove_tree(tmp_path / "none")


def test_two_can_remove_the_same(tmp_path: Path) -> None:
    for number in range(200):
        for name in range(4):
            (tmp_path / f"tree/{name}/{number}/x/1").mkdir(parents=True)
            (tmp_path / f"tree/{name}/{number}/x/file").write_text("")
    failed: list[Exception] = []

    def remove() -> None:
        try:
            remove_tree(tmp_path / "tree")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=remove) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert list(tmp_path.iterdir()) == []
