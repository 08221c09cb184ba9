"""What copies whole trees: tar, rsync, cp; with all that a file has besides its content."""

from pathlib import Path

import pytest

from tests.programs.conftest import Listing, Run
from tests.served import needs_root

pytestmark = needs_root


@pytest.mark.parametrize("level", ["all", "data"])
def test_tar_extracts_and_archives_a_tree_unchanged(
    volume: Path, marked_tree: Path, tmp_path: Path, run: Run, listing: Listing
) -> None:
    options = ("--xattrs", "--acls", "--numeric-owner")
    run("tar", "-C", marked_tree, *options, "-cf", tmp_path / "in.tar", ".")

    run("tar", "-C", volume, *options, "-xpf", tmp_path / "in.tar")

    assert listing(volume) == listing(marked_tree)
    run("tar", "-C", volume, *options, "--compare", "-f", tmp_path / "in.tar")
    run("diff", "-r", "--no-dereference", marked_tree, volume)
    _same_attributes(marked_tree, volume, run)

    back = tmp_path / "back"
    back.mkdir()
    run("tar", "-C", volume, *options, "--sparse", "-cf", tmp_path / "out.tar", ".")
    run("tar", "-C", back, *options, "-xpf", tmp_path / "out.tar")
    assert listing(back) == listing(marked_tree)
    run("diff", "-r", "--no-dereference", marked_tree, back)
    _same_attributes(marked_tree, back, run)


def test_tar_does_not_see_files_change_while_it_reads(volume: Path, tree: Path, run: Run) -> None:
    run("cp", "-a", f"{tree}/.", volume)
    said = run("tar", "-C", volume, "-cf", volume.parent / "a.tar", ".")
    assert said == ""


def test_rsync_has_nothing_left_to_do(
    volume: Path, marked_tree: Path, tmp_path: Path, run: Run, listing: Listing
) -> None:
    run("rsync", "-aHAX", f"{marked_tree}/", volume)
    assert listing(volume) == listing(marked_tree)
    said = run("rsync", "-aHAXni", "--checksum", "--delete", f"{marked_tree}/", volume)
    assert said == ""

    back = tmp_path / "back"
    run("rsync", "-aHAX", f"{volume}/", back)
    said = run("rsync", "-aHAXni", "--checksum", "--delete", f"{marked_tree}/", back)
    assert said == ""


def test_rsync_updates_files_in_place(volume: Path, tree: Path, run: Run) -> None:
    run("rsync", "-a", f"{tree}/", volume)
    content = bytearray((tree / "large").read_bytes())
    content[1_000_000:1_000_100] = bytes(100)
    (tree / "large").write_bytes(content)
    inode = (volume / "large").stat().st_ino
    run("rsync", "-a", "--inplace", "--no-whole-file", f"{tree}/", volume)
    assert (volume / "large").read_bytes() == content
    assert (volume / "large").stat().st_ino == inode


@pytest.mark.parametrize("level", ["all", "data"])
def test_cp_copies_in_within_and_out(
    volume: Path, marked_tree: Path, tmp_path: Path, run: Run, listing: Listing
) -> None:
    for source, target in (
        (marked_tree, volume / "in"),
        (volume / "in", volume / "within"),
        (volume / "within", tmp_path / "out"),
    ):
        run("cp", "-a", source, target)
        run("diff", "-r", "--no-dereference", marked_tree, target)
        assert listing(target) == listing(marked_tree)
        _same_attributes(marked_tree, target, run)


def test_a_removed_tree_is_gone(volume: Path, tree: Path, run: Run) -> None:
    run("cp", "-a", tree, volume / "copy")
    run("rm", "-r", volume / "copy")
    assert list(volume.iterdir()) == []


def _same_attributes(one: Path, other: Path, run: Run) -> None:
    for command in (
        ("getfattr", "-dRhm", "-", "."),
        ("getfacl", "-PRn", "."),
    ):
        listed = [run(*command, cwd=root) for root in (one, other)]
        assert sorted(listed[0].splitlines()) == sorted(listed[1].splitlines())
