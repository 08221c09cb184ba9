"""Layers as other tools make them become the tree that these tools' users had."""

import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusevol.errors import FusevolError
from fusevol.images.image import open_image
from fusevol.images.layers import unpack
from tests.engines.layouts import entry, image, layer
from tests.engines.machine import command, workspace
from tests.engines.trees import changing, snapshot
from tests.served import needs_root

pytestmark = needs_root

DIR: Final = tarfile.DIRTYPE
LINK: Final = tarfile.SYMTYPE
HARD: Final = tarfile.LNKTYPE

Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that is no tmpfs, with the state directory in it."""
    with workspace("layers") as directory, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSEVOL_STATE_DIRECTORY", str(directory / "state"))
        yield directory


def tree_of(reference: str) -> dict[str, str]:
    """Return what a container of an image begins with: what stands at each path."""
    lowers = unpack(open_image(reference))
    with changing("tree", lowers) as (container, merged):
        found = shown(merged)
    container.remove()
    return found


def shown(root: Path) -> dict[str, str]:
    """Return in words what stands at each path of a tree, but for the root."""
    found = {}
    for path, node in snapshot(root).items():
        kind = stat.filemode(node.mode)[0]
        content = f" {node.content.decode()}" if kind in "-l" else ""
        found[os.fsdecode(path)] = f"{kind}{content}"
    del found["."]
    return found


BASE: Final[Members] = [
    entry("d", DIR), entry("d/1", content=b"1"), entry("d/e", DIR), entry("d/e/2", content=b"2"),
    entry("etc", DIR), entry("etc/passwd", content=b"root"), entry("f", content=b"f"),
    entry("l", LINK, "etc"),
]  # fmt: skip
UNCHANGED: Final = {
    "d": "d", "d/1": "- 1", "d/e": "d", "d/e/2": "- 2", "etc": "d", "etc/passwd": "- root",
    "f": "- f", "l": "l etc",
}  # fmt: skip

WITHOUT_D: Final = {path: text for path, text in UNCHANGED.items() if path[0] != "d"}


def test_the_base_is_what_it_is(place: Path) -> None:
    assert tree_of(image(place / "base", layer(*BASE))) == UNCHANGED


@pytest.mark.parametrize(
    ("members", "changed"),
    [
        ([entry("d", content=b"file"), entry("d/.wh.1")], WITHOUT_D | {"d": "- file"}),
        ([entry("d/.wh.1"), entry("d/.wh.e"), entry("d", content=b"x")], WITHOUT_D | {"d": "- x"}),
        ([entry(".wh.d"), entry("d", content=b"file")], WITHOUT_D | {"d": "- file"}),
        ([entry("d", content=b"file"), entry(".wh.d")], WITHOUT_D | {"d": "- file"}),
        ([entry(".wh.d"), entry("d", DIR)], WITHOUT_D | {"d": "d"}),
        ([entry("d", DIR), entry(".wh.d")], WITHOUT_D | {"d": "d"}),
        ([entry(".wh.d"), entry("d/new")], WITHOUT_D | {"d": "d", "d/new": "- "}),
        ([entry("d/new"), entry(".wh.d")], WITHOUT_D | {"d": "d", "d/new": "- "}),
        ([entry("d/e/new"), entry("d/.wh.e"), entry("d/.wh.1"), entry(".wh.d")],
         WITHOUT_D | {"d": "d", "d/e": "d", "d/e/new": "- "}),
        ([entry(".wh.d"), entry("d/.wh.1"), entry("d/e/.wh.2")], WITHOUT_D),
        ([entry("d/.wh.1"), entry("d/e/.wh.2"), entry(".wh.d")], WITHOUT_D),
        ([entry("d/e/.wh..wh..opq"), entry(".wh.d")], WITHOUT_D),
        ([entry(".wh.d"), entry("d/.wh..wh..opq"), entry("d", DIR)], WITHOUT_D | {"d": "d"}),
        ([entry("d", content=b"x"), entry("d", DIR)], WITHOUT_D | {"d": "d"}),
        ([entry("d", LINK, "etc")], WITHOUT_D | {"d": "l etc"}),
        # As `umoci repack` writes a directory that became a symbolic link. The link leads to what
        # nobody has removed.
        ([entry("d", LINK, "etc"), entry("d/.wh.passwd"), entry("d/.wh.1")],
         WITHOUT_D | {"d": "l etc"}),
        ([entry("etc", DIR), entry("d", LINK, "etc"), entry("d/.wh.passwd")],
         WITHOUT_D | {"d": "l etc"}),
        ([entry("d", LINK, "nowhere"), entry("d/.wh.1")], WITHOUT_D | {"d": "l nowhere"}),
        ([entry("etc", DIR), entry("d", LINK, "/etc"), entry("d/new")],
         WITHOUT_D | {"d": "l /etc", "etc/new": "- "}),
        ([entry("f", DIR), entry("f/g")], UNCHANGED | {"f": "d", "f/g": "- "}),
        ([entry("l", DIR), entry("l/x")], UNCHANGED | {"l": "d", "l/x": "- "}),
        ([entry("l", content=b"x")], UNCHANGED | {"l": "- x"}),
        ([entry("d", tarfile.FIFOTYPE)], WITHOUT_D | {"d": "p"}),
        ([entry("a", content=b"a"), entry("b", HARD, "a"), entry("b", HARD, "a"),
          entry("a", HARD, "b")], UNCHANGED | {"a": "- a", "b": "- a"}),
        ([entry("a", content=b"a"), entry("d", HARD, "a"), entry("a", content=b"other")],
         WITHOUT_D | {"a": "- other", "d": "- a"}),
        ([entry("a", content=b"a"), entry("b", DIR), entry("b/c"), entry("b", HARD, "a")],
         UNCHANGED | {"a": "- a", "b": "- a"}),
        # A way through a link that is a file a moment later.
        ([entry("up", LINK, "/"), entry("up/x"), entry("up/up", content=b"f"), entry("y")],
         UNCHANGED | {"up": "- f", "x": "- ", "y": "- "}),
        ([entry(".wh..wh.plnk", DIR), entry(".wh..wh.plnk/1.2"), entry(".wh..wh.aufs")], UNCHANGED),
        ([entry("./d//./.wh.1"), entry("/d/../d/.wh.e")], WITHOUT_D | {"d": "d"}),
    ],
)  # fmt: skip
def test_types_change_and_whiteouts_come_in_any_order(
    place: Path, members: Members, changed: dict[str, str]
) -> None:
    layout = place / "layout"
    shutil.rmtree(layout, ignore_errors=True)
    assert tree_of(image(layout, layer(*BASE), layer(*members))) == changed


@pytest.mark.parametrize(
    "members",
    [
        [entry("x"), entry("x/y")],
        [entry("l", LINK, "nowhere"), entry("l/y")],
        [entry("l", LINK, "l"), entry("l/y")],
        [entry("a", HARD, "a")],
        [entry("a", HARD, "/")],
        [entry("a", DIR), entry("b", HARD, "a")],
        [entry(".", content=b"x")],
        [entry("x", pax_headers={"path": "a\0b"})],
    ],
)
def test_what_makes_no_tree_is_one_error(place: Path, members: Members) -> None:
    layout = place / "layout"
    shutil.rmtree(layout, ignore_errors=True)
    with pytest.raises(FusevolError, match=r"^layer sha256:") as caught:
        tree_of(image(layout, layer(*BASE), layer(*members)))
    assert str(caught.value).isprintable()
    assert not list((place / "state/layers").glob("unpacking-*"))


def test_no_way_leads_out(place: Path) -> None:
    outside = place / "outside"
    outside.mkdir()
    (outside / "victim").write_text("safe")
    evil: list[Members] = [
        [entry("l", LINK, f"{'../' * 40}{outside}"), entry("l/.wh.victim"), entry("l/new")],
        [entry("l", LINK, str(outside)), entry("x", HARD, "l/victim")],
        [entry(f"{'../' * 40}{outside}/.wh.victim"), entry(f"{outside}/victim", content=b"x")],
        [entry("l", LINK, "/proc/self/root"), entry(f"l{outside}/victim", content=b"x")],
        [entry("l", LINK, str(outside)), entry("l", DIR), entry("l/victim", content=b"x")],
    ]
    for number, members in enumerate(evil):
        with suppress(FusevolError):
            unpack(open_image(image(place / f"evil{number}", layer(*members))))
    assert os.listdir(outside) == ["victim"]
    assert (outside / "victim").read_text() == "safe"
    assert (outside / "victim").stat().st_nlink == 1


# --- archives as they come -------------------------------------------------------------------


def test_archives_without_an_end(place: Path) -> None:
    whole = layer(entry("a", content=b"a" * 700), entry("b", content=b"b" * 700))
    end = whole.rindex(b"b") + 1
    for number, size in enumerate((end, end + 1, end + 324, end + 324 + 512, len(whole))):
        found = tree_of(image(place / f"unpadded{number}", whole[:size]))
        assert found == {"a": "- " + "a" * 700, "b": "- " + "b" * 700}
    assert tree_of(image(place / "empty", b"", layer(*BASE))) == UNCHANGED


@pytest.mark.parametrize("missing", [1, 100, 700, 701, 1000, 1200])
def test_an_archive_that_ends_inside_of_a_member_is_damaged(place: Path, missing: int) -> None:
    whole = layer(entry("a", content=b"a" * 700), entry("b", content=b"b" * 700))
    layout = place / f"cut{missing}"
    with pytest.raises(FusevolError, match="cannot be unpacked"):
        unpack(open_image(image(layout, whole[: whole.rindex(b"b") + 1 - missing])))


def test_what_is_no_member_is_not_the_end(place: Path) -> None:
    whole = layer(entry("a", content=b"a"), entry("b", content=b"b"))
    at = whole.index(b"b", 1024)
    with pytest.raises(FusevolError, match="cannot be unpacked"):
        unpack(open_image(image(place / "no-member", whole[:at] + b"x" + whole[at + 1 :])))


def test_umoci_inserts_without_padding(place: Path) -> None:
    (place / "inserted").write_bytes(b"x" * 700)
    layout = place / "insert"
    command("umoci", "init", "--layout", layout)
    command("umoci", "new", "--image", f"{layout}:t")
    command("umoci", "insert", "--image", f"{layout}:t", place / "inserted", "/a/inserted")
    assert tree_of(f"oci:{layout}:t") == {"a": "d", "a/inserted": "- " + "x" * 700}


# --- deeper than paths reach -----------------------------------------------------------------


@pytest.mark.parametrize(("name", "depth"), [("d" * 200, 40), ("e", 3000)])
def test_a_layer_is_as_deep_as_it_is(place: Path, name: str, depth: int) -> None:
    members = [
        entry("/".join([name] * level), DIR, mode=0o751, mtime=level) for level in range(1, depth)
    ]
    deepest = "/".join([name] * (depth - 1))
    assert len(deepest) > os.pathconf("/", "PC_PATH_MAX")
    members += [
        entry(f"{deepest}/file", content=b"deep", uid=7), entry(f"{deepest}/hard", HARD,
        f"{deepest}/file"), entry("short", HARD, f"{deepest}/file"),
        entry(f"{deepest}/link", LINK, "file"), entry(f"{deepest}/.wh.gone"),
    ]  # fmt: skip
    (lower,) = unpack(open_image(image(place / f"deep{depth}", layer(*members))))
    fd = os.open(lower, os.O_RDONLY)
    for level in range(1, depth):
        below = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
        os.close(fd)
        fd = below
        status = os.fstat(fd)
        assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o751, level)
    try:
        assert sorted(os.listdir(fd)) == ["file", "gone", "hard", "link"]
        file = os.stat("file", dir_fd=fd)
        assert (file.st_uid, file.st_size, file.st_nlink) == (7, 4, 3)
        assert os.stat(f"{lower}/short").st_ino == file.st_ino
        assert stat.S_ISCHR(os.stat("gone", dir_fd=fd).st_mode)
    finally:
        os.close(fd)


# --- what umoci makes of changes -------------------------------------------------------------

_NAMES: Final = ("a", "b", "c")
_PATHS: Final = st.lists(st.sampled_from(_NAMES), min_size=1, max_size=3).map("/".join)
_STEPS: Final = st.one_of(
    st.tuples(st.just("write"), _PATHS),
    st.tuples(st.just("mkdir"), _PATHS),
    st.tuples(st.just("remove"), _PATHS),
    st.tuples(st.just("rename"), _PATHS, _PATHS),
    st.tuples(st.just("symlink"), _PATHS, _PATHS),
    st.tuples(st.just("link"), _PATHS, _PATHS),
)


def _change(root: Path, step: tuple[Any, ...], number: int) -> None:
    what, path = step[0], root / step[1]
    if what == "write":
        path.write_text(str(number))
    elif what == "mkdir":
        path.mkdir()
    elif what == "remove":
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    elif what == "rename":
        os.rename(path, root / step[2])
    elif what == "symlink":
        path.symlink_to(step[2])
    else:
        os.link(path, root / step[2], follow_symlinks=False)


@settings(max_examples=25, database=None)
@given(st.lists(st.lists(_STEPS, min_size=3, max_size=20), min_size=2, max_size=3))
def test_layers_of_umoci_become_the_tree_they_were_made_of(
    place: Path, layers: list[list[tuple[Any, ...]]]
) -> None:
    layout, bundle = place / "umoci", place / "bundle"
    for path in (layout, bundle):
        shutil.rmtree(path, ignore_errors=True)
    command("umoci", "init", "--layout", layout)
    command("umoci", "new", "--image", f"{layout}:t")
    command("umoci", "unpack", "--image", f"{layout}:t", bundle)
    root = bundle / "rootfs"
    number = 0
    for steps in layers:
        for step in steps:
            number += 1
            # What cannot be done is left. No link leads up, so none leads out.
            with suppress(OSError):
                _change(root, step, number)
        command("umoci", "repack", "--refresh-bundle", "--image", f"{layout}:t", bundle)
    assert tree_of(f"oci:{layout}:t") == shown(root)
