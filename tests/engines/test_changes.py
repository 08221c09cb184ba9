"""What a container changed, as a layer.

Unpacked by umoci, and by fusevol itself, it is the tree that was there.
"""

import hashlib
import os
import resource
import shutil
import stat
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusevol.containers.state import Container
from fusevol.containers.trees import remove_tree
from fusevol.errors import FusevolError, UnsupportedError
from fusevol.images.changes import write_layer
from fusevol.images.commit import Wishes, commit
from fusevol.images.image import open_image
from fusevol.images.layers import unpack
from fusevol.images.reference import parse_target
from fusevol.linux.mounts import MS_BIND, mount, umount
from tests.engines.machine import command, workspace
from tests.engines.rootfs import make_oci_layout
from tests.engines.trees import Node, changing, differences, set_xattr, snapshot
from tests.served import needs_root

pytestmark = needs_root

CAPABILITY: Final = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""security.capability of a file that may bind low ports (struct vfs_cap_data)."""

ACL: Final = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, perm, who)
    for tag, perm, who in (
        (1, 6, 0xFFFFFFFF), (2, 4, 1000), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF),
        (32, 4, 0xFFFFFFFF),
    )
)  # fmt: skip
"""system.posix_acl_access: user 1000 may read."""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that is no tmpfs, with the state directory in it."""
    with workspace("changes") as directory, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSEVOL_STATE_DIRECTORY", str(directory / "state"))
        patch.delenv("SOURCE_DATE_EPOCH", raising=False)
        yield directory


@pytest.fixture(scope="module")
def image(place: Path) -> str:
    """An image of a tree in which there is something to change."""
    tree = place / "tree"
    for path in ("a/a/a", "a/b", "b/a", "c"):
        (tree / path).mkdir(parents=True)
    for path in ("a/a/f", "a/a/a/f", "a/f", "b/a/f", "b/f", "f", "g"):
        (tree / path).write_text(f"{path} of the image\n")
    os.link(tree / "f", tree / "h")
    os.link(tree / "a/f", tree / "b/h")
    (tree / "l").symlink_to("a/f")
    (tree / "c/l").symlink_to("../a")
    return make_oci_layout(tree, place / "layout")


class Changing:
    """A container of the image, changed and committed."""

    def __init__(self, place: Path, image: str) -> None:
        self.place = place
        self.image = open_image(image)
        self._word = image
        self._lowers = unpack(self.image)

    def commit(
        self, change: Callable[[Path], None], before: Callable[[Container], None] | None = None
    ) -> Path:
        """Change the merged root; return the committed image, unpacked by umoci, to compare."""
        about = {"image": self._word, "manifest_digest": self.image.manifest_digest}
        with changing("c", self._lowers, **about) as (container, merged):
            change(merged)
            self.merged = snapshot(merged)
            if before:
                before(container)
            unpacked = self.unpacked(container)
        container.remove()
        return unpacked

    def unpacked(self, container: Container) -> Path:
        layout, bundle = self.place / "out", self.place / "bundle"
        for path in (layout, bundle):
            shutil.rmtree(path, ignore_errors=True)
        commit(container, parse_target(f"oci:{layout}:t"), Wishes())
        with tarfile.open(fileobj=BytesIO(self.layer())) as archive:
            self.members = {member.name.rstrip("/"): member for member in archive}
        command("umoci", "unpack", "--image", f"{layout}:t", bundle)
        return bundle / "rootfs"

    def run_again(self) -> dict[bytes, Node]:
        """Return the tree that a container of the committed image begins with."""
        lowers = unpack(open_image(f"oci:{self.place}/out:t"))
        with changing("again", lowers) as (container, merged):
            found = snapshot(merged)
        container.remove()
        return found

    def layer(self) -> bytes:
        """Return the topmost layer of the image that was made, uncompressed."""
        made = open_image(f"oci:{self.place}/out:t")
        path = self.place / "out/blobs" / made.layers[-1].blob.digest.replace(":", "/")
        data = command_output("gzip", "-dc", path)
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == made.layers[-1].diff_id
        return data


def command_output(*words: str | Path) -> bytes:
    return subprocess.run(list(map(str, words)), capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def changes(place: Path, image: str) -> Changing:
    return Changing(place, image)


def same(changes: Changing, unpacked: Path) -> None:
    # To umoci and others, an attribute without a value means nothing in a pax header.
    expected = {
        path: node._replace(xattrs={key: value for key, value in node.xattrs.items() if value})
        for path, node in changes.merged.items()
    }
    assert differences(expected, snapshot(unpacked)) == []
    assert differences(changes.merged, changes.run_again()) == []


def test_every_kind_of_file_comes_out_as_it_went_in(changes: Changing) -> None:
    def change(root: Path) -> None:
        (root / "new").mkdir(0o1777)
        os.chmod(root / "new", 0o3775)
        program = root / "new/program"
        program.write_bytes(os.urandom(70_000))
        os.chown(program, 12, 34)
        os.chmod(program, 0o6755)
        os.setxattr(program, "security.capability", CAPABILITY)
        os.setxattr(program, "user.text", "schön".encode())
        os.setxattr(program, "user.bytes", b"\0\xff\n=\0")
        os.setxattr(program, "user.empty", b"")
        os.setxattr(program, "trusted.mine", b"1")
        os.setxattr(program, "system.posix_acl_access", ACL)
        os.setxattr(root / "new", "system.posix_acl_default", ACL)
        os.mkfifo(root / "new/fifo", 0o620)
        os.mknod(root / "new/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "new/disk", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
        os.symlink("/nowhere/" + "x" * 300, root / "new/link")
        os.lchown(root / "new/link", 5, 6)
        set_xattr(root / "new/link", "trusted.of-the-link", b"l")
        os.mknod(root / "new/socket", stat.S_IFSOCK | 0o777)
        for name in (b"\xff\xfe", b"new\nline", b" ", "ü".encode(), b"n" * 255, b"-rf", b".whx"):
            (root / "new" / os.fsdecode(name)).write_bytes(name)
        deep = root / "new" / "/".join("d" * 100 for _ in range(12))
        deep.mkdir(parents=True)
        (deep / "f").write_text("deep")
        os.link(program, root / "another")
        os.link(root / "new/fifo", root / "fifo2")
        os.link(root / "new/link", root / "link2")
        os.chown(root / "c", 3_000_000, 2**32 - 2)
        for path, ns in ((program, 1_234_567_890_123_456_789), (root / "c", -1_500_000_000),
                         (root / "new/fifo", 0), (root / "new/null", 1), (root / "new", -1),
                         (root / "another", 4_102_444_800_000_000_001)):  # fmt: skip
            os.utime(path, ns=(ns, ns))
        os.chmod(root, 0o751)

    unpacked = changes.commit(change)
    same(changes, unpacked)
    assert b"new/socket" not in changes.merged
    assert not (unpacked / "new/socket").exists()
    node = changes.merged[b"new/program"]
    assert node.names == {b"new/program", b"another"}
    assert set(node.xattrs) == {
        "security.capability", "user.text", "user.bytes", "user.empty", "trusted.mine",
        "system.posix_acl_access",
    }  # fmt: skip


def test_what_was_removed_is_gone(changes: Changing) -> None:
    def change(root: Path) -> None:
        (root / "f").unlink()
        (root / "l").unlink()
        shutil.rmtree(root / "b")
        (root / "a/f").unlink()
        (root / "a/f").mkdir()
        shutil.rmtree(root / "a/b")
        (root / "a/b").write_text("a file now")

    unpacked = changes.commit(change)
    same(changes, unpacked)
    assert {"./.wh.f", ".wh.f"} & changes.members.keys()
    assert changes.members[".wh.b"].isreg()
    assert changes.members[".wh.b"].size == 0
    assert not any(member.ischr() for member in changes.members.values())


def test_an_opaque_directory_hides_what_the_image_has_there_and_only_there(
    changes: Changing,
) -> None:
    def change(root: Path) -> None:
        shutil.rmtree(root / "a")
        (root / "a/new").mkdir(parents=True)
        (root / "a/f").write_text("another")
        (root / "c/l").unlink()
        (root / "c/l").mkdir()  # where the image has a symbolic link to a directory
        (root / "fresh/below").mkdir(parents=True)

    unpacked = changes.commit(change)
    same(changes, unpacked)
    assert [name for name in changes.members if name.endswith(".wh..wh..opq")] == ["a/.wh..wh..opq"]
    assert not any("overlay" in str(one.pax_headers) for one in changes.members.values())


def test_whiteouts_come_before_their_siblings_and_parents_before_what_is_in_them(
    changes: Changing,
) -> None:
    def change(root: Path) -> None:
        (root / "a/a/f").unlink()
        (root / "a/a/!first").write_text("sorts before any whiteout")
        (root / "a/a/a/f").write_text("changed")

    changes.commit(change)
    assert list(changes.members) == [
        ".", "a", "a/a", "a/a/.wh.f", "a/a/!first", "a/a/a", "a/a/a/f",
    ]  # fmt: skip


def test_a_container_that_changed_nothing_gives_an_image_with_an_empty_layer(
    changes: Changing,
) -> None:
    same(changes, changes.commit(lambda _root: None))
    assert list(changes.members) == ["."]


def test_attributes_of_overlays_are_neither_believed_nor_kept(changes: Changing) -> None:
    def change(root: Path) -> None:
        (root / "a/new").write_text("so that there is something")
        os.setxattr(root / "a", "user.overlay.opaque", b"y")
        os.setxattr(root / "a/new", "user.overlay.redirect", b"/etc")

    unpacked = changes.commit(change)
    same(changes, unpacked)
    assert (unpacked / "a/f").exists(), "the container cannot hide what the image has"
    assert "user.overlay.opaque" not in os.listxattr(unpacked / "a")


@pytest.mark.parametrize(
    ("name", "attribute", "said"),
    [
        (".wh.x", "", "a/.wh.x cannot be stored in a layer"),
        (".wh..wh..opq", "", "a/.wh..wh..opq cannot be stored in a layer"),
        ("f", "trusted.overlay.redirect", "a/f has the attribute trusted.overlay.redirect"),
        ("f", "trusted.overlay.metacopy", "a/f has the attribute trusted.overlay.metacopy"),
        ("f", "user.a=b", "a/f has the attribute 'user.a=b'"),
        ("f", "user.\udcff", "a/f has the attribute"),
    ],
)  # fmt: skip
def test_what_a_layer_cannot_hold_is_refused(
    changes: Changing, name: str, attribute: str, said: str
) -> None:
    def spoil(container: Container) -> None:
        path = Path(container.upper, "a", name)
        path.touch()
        if attribute:
            os.setxattr(path, os.fsencode(attribute), b"/x")

    with pytest.raises(UnsupportedError, match=said):
        changes.commit(lambda root: (root / "a/new").touch(), spoil)
    left = [path for path in (changes.place / "out").rglob("*") if path.name.startswith(".new")]
    assert left == []


def test_nothing_that_is_mounted_below_a_directory_is_in_its_layer(place: Path) -> None:
    directory, other = place / "root", place / "other"
    (directory / "mnt").mkdir(parents=True)
    (directory / "mnt/covered").touch()
    other.mkdir()
    (other / "secret").touch()
    mount(str(other), str(directory / "mnt"), "", MS_BIND, "")
    out = BytesIO()
    try:
        write_layer(str(directory), out)
    finally:
        umount(str(directory / "mnt"))
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        assert archive.getnames() == [".", "mnt", "mnt/covered"]


def test_a_whiteout_that_a_root_directory_has_is_not_in_its_layer(place: Path) -> None:
    directory = place / "with-whiteout"
    directory.mkdir()
    os.mknod(directory / "hidden", stat.S_IFCHR, os.makedev(0, 0))
    (directory / "seen").touch()
    out = BytesIO()
    write_layer(str(directory), out)
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        assert archive.getnames() == [".", "seen"]


def test_a_directory_that_is_not_there_is_named(place: Path) -> None:
    with pytest.raises(FusevolError, match=f"{place}/missing cannot be read: No such file"):
        write_layer(f"{place}/missing", BytesIO())


class _Meddling(BytesIO):
    """Gets an archive, and does something when a certain name comes by."""

    def __init__(self, name: bytes, meddle: Callable[[], None]) -> None:
        super().__init__()
        self._name = name
        self._meddle: Callable[[], None] | None = meddle

    def write(self, data: Any) -> int:
        if self._meddle and self._name in bytes(data):
            meddle, self._meddle = self._meddle, None
            meddle()
        return super().write(data)


def test_a_file_that_changes_while_it_is_read_does_not_spoil_the_archive(place: Path) -> None:
    directory = place / "unquiet"
    directory.mkdir()
    size = 4 << 20
    for name in ("1-cut", "2-grown", "3-replaced", "4-removed", "5-removed-directory"):
        if "directory" in name:
            (directory / name).mkdir()
        else:
            (directory / name).write_bytes(b"x" * size)

    def meddle() -> None:
        os.truncate(directory / "1-cut", size // 2)
        with (directory / "2-grown").open("ab") as file:
            file.write(b"y" * size)
        (directory / "3-replaced").unlink()
        os.mkfifo(directory / "3-replaced")
        (directory / "4-removed").unlink()
        (directory / "5-removed-directory").rmdir()

    out = _Meddling(b"1-cut", meddle)
    write_layer(str(directory), out)
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        members = {member.name: member for member in archive}
        assert list(members) == [".", "1-cut", "2-grown", "3-replaced"]
        assert members["1-cut"].size == size
        assert members["2-grown"].size == 2 * size
        assert members["3-replaced"].isfifo()
        content = archive.extractfile(members["1-cut"])
        assert content
        data = content.read()
        assert data.rstrip(b"\0") == b"x" * len(data.rstrip(b"\0"))
        assert len(data) == size


def _make_deep(root: Path, name: str, depth: int) -> int:
    """Make directories in each other; return a descriptor of the deepest."""
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


@pytest.mark.parametrize("is_below", [True, False])
def test_a_tree_deeper_than_paths_and_descriptors_reach(place: Path, is_below: bool) -> None:
    upper, lower = place / f"deep-upper-{is_below}", place / f"deep-lower-{is_below}"
    name, depth = "d" * 100, 300
    assert depth * len(name) > os.pathconf("/", "PC_PATH_MAX")
    deepest = _make_deep(upper, name, depth)
    os.close(_make_deep(lower, name, depth if is_below else depth - 1))
    os.setxattr(deepest, "trusted.overlay.opaque", b"y")
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=deepest))
    os.close(deepest)
    (upper / "last").touch()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    out = BytesIO()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (250, before[1]))
        write_layer(str(upper), out, [str(lower)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        remove_tree(upper)
        remove_tree(lower)
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        members = archive.getnames()
    path = "/".join([name] * depth)
    marker = [f"{path}/.wh..wh..opq"] if is_below else []
    levels = ["/".join([name] * level) for level in range(1, depth + 1)]
    assert members == [".", *levels, *marker, f"{path}/file", "last"]


def test_a_deep_directory_that_is_moved_meanwhile_is_told(place: Path) -> None:
    root = place / "moved"
    os.close(_make_deep(root, "d", 400))
    (root / "d/d/d/last").touch()
    middle = "/".join(["d"] * 20)

    def move() -> None:
        os.rename(root / middle, root / "elsewhere")

    try:
        with pytest.raises(FusevolError, match="moved while it was read"):
            write_layer(str(root), _Meddling("/".join(["d"] * 150).encode(), move))
    finally:
        remove_tree(root)


# --- random changes --------------------------------------------------------------------------

_NAMES: Final = ("a", "b", "c", "f", "h", "l", os.fsdecode(b"\xff"))
_PATHS: Final = st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4).map("/".join)
_TIMES: Final = st.integers(-(10**18), 4 * 10**18)
_STEPS: Final = st.one_of(
    st.tuples(st.just("write"), _PATHS, st.binary(max_size=20)),
    st.tuples(st.just("mkdir"), _PATHS),
    st.tuples(st.just("remove"), _PATHS),
    st.tuples(st.just("again"), _PATHS),
    st.tuples(st.just("rename"), _PATHS, _PATHS),
    st.tuples(st.just("link"), _PATHS, _PATHS),
    st.tuples(st.just("symlink"), _PATHS, _PATHS),
    st.tuples(st.just("fifo"), _PATHS),
    st.tuples(st.just("device"), _PATHS, st.integers(240, 254), st.integers(0, 300)),
    st.tuples(st.just("chmod"), _PATHS, st.integers(0, 0o7777)),
    st.tuples(st.just("chown"), _PATHS, st.integers(0, 2**31), st.integers(0, 2**31)),
    st.tuples(st.just("utime"), _PATHS, _TIMES),
    st.tuples(st.just("xattr"), _PATHS, st.sampled_from("ab"), st.binary(min_size=1, max_size=9)),
)


_DOING: Final[dict[str, Callable[..., object]]] = {
    "write": lambda _root, path, data: _write(path, data),
    "mkdir": lambda _root, path: path.mkdir(),
    "remove": lambda _root, path: _remove(path),
    "again": lambda _root, path: _again(path),
    "rename": lambda root, path, to: os.rename(path, root / to),
    "link": lambda root, path, to: os.link(path, root / to, follow_symlinks=False),
    "symlink": lambda _root, path, to: os.symlink(to, path),
    "fifo": lambda _root, path: os.mkfifo(path),
    "device": lambda _root, path, *numbers: os.mknod(
        path, stat.S_IFCHR | 0o600, os.makedev(*numbers)
    ),
    "chmod": lambda _root, path, mode: os.chmod(path, mode),
    "chown": lambda _root, path, *ids: os.lchown(path, *ids),
    "utime": lambda _root, path, ns: os.utime(path, ns=(ns, ns), follow_symlinks=False),
    "xattr": lambda _root, path, name, value: os.setxattr(
        path, f"trusted.{name}", value, follow_symlinks=False
    ),
}


def _write(path: Path, data: bytes) -> None:
    # Whoever opens a FIFO would wait.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _again(path: Path) -> None:
    _remove(path)
    path.mkdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@settings(
    max_examples=120, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(steps=st.lists(_STEPS, min_size=1, max_size=30))
def test_any_changes_make_an_image_of_the_tree_that_was_there(
    changes: Changing, steps: list[tuple[Any, ...]]
) -> None:
    def change(root: Path) -> None:
        for step in steps:
            # What cannot be done, such as to rename a directory of the image, is left.
            with suppress(OSError):
                _DOING[step[0]](root, root / step[1], *step[2:])

    same(changes, changes.commit(change))
