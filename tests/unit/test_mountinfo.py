"""Lines of /proc/self/mountinfo."""

import os

import pytest

from fusevol.linux.mountinfo import is_below, mounts, parse, visible_at

_TEXT = (
    b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
    rb"65 45 0:39 / /tmp/a\040b\134c rw,nosuid shared:7 master:12 - fuse.fusevol /srv/\011x "
    b"rw,user_id=0"
    b"\n66 45 0:40 / /no/tags rw - tmpfs \xff rw\n"
)


def test_fields() -> None:
    ext, fuse, tmpfs = parse(_TEXT)
    assert (ext.mount_id, ext.device, ext.root) == (36, os.makedev(98, 0), "/mnt1")
    assert (ext.fstype, ext.source, ext.super_options) == (
        "ext3",
        "/dev/root",
        "rw,errors=continue",
    )
    assert (fuse.mountpoint, fuse.source, fuse.fstype) == (
        "/tmp/a b\\c",
        "/srv/\tx",
        "fuse.fusevol",
    )
    assert os.fsencode(tmpfs.source) == b"\xff"
    assert (ext.parent, ext.options) == (35, frozenset(("rw", "noatime")))
    assert [(m.shared, m.master) for m in (ext, fuse, tmpfs)] == [(0, 1), (7, 12), (0, 0)]


def test_own_mounts_are_read() -> None:
    assert any(mount.mountpoint == "/proc" and mount.fstype == "proc" for mount in mounts())


@pytest.mark.parametrize(
    ("path", "directory", "below"),
    [
        ("/a/b", "/a", True), ("/a", "/a", False), ("/ab", "/a", False), ("/a", "/", True),
        ("/", "/", False), ("/a", "/a/b", False),
    ],
)  # fmt: skip
def test_is_below(path: str, directory: str, below: bool) -> None:
    assert is_below(path, directory) is below


_TREE = b"""\
20 1 8:1 / / rw - ext4 root rw
21 20 0:5 / /run rw - tmpfs run rw
22 21 0:39 / /run/volumes/data rw - fuse.fusevol source rw
23 20 0:6 / /tmp rw - tmpfs tmp rw
24 23 0:40 / /tmp/hidden/data rw - fuse.fusevol source rw
25 23 0:7 / /tmp/hidden rw - tmpfs over rw
26 23 0:41 / /tmp/twice rw - fuse.fusevol first rw
27 26 0:42 / /tmp/twice rw - fuse.fusevol second rw
"""


@pytest.mark.parametrize(
    ("path", "device"),
    [
        ("/", os.makedev(8, 1)),
        ("/run/volumes/data", 39),
        ("/run/volumes", None),
        ("/run/volumes/data/below", None),
        ("/tmp/twice", 42),
        ("/tmp/hidden", 7),
        ("/tmp/hidden/data", None),
    ],
)
def test_what_a_path_leads_to(path: str, device: int | None) -> None:
    found = visible_at(list(parse(_TREE)), path)
    assert (found and found.device) == device


def test_what_a_path_leads_to_below_another_root() -> None:
    """The root directory of who has changed it need not be a mount."""
    lines = (
        b"22 21 0:39 / /volumes/data rw - fuse.fusevol source rw\n",
        b"23 22 0:6 / /volumes/data rw - tmpfs t rw\n",
    )
    alone, covered = list(parse(lines[0])), list(parse(b"".join(lines)))
    assert visible_at(alone, "/volumes/data") == alone[0]
    assert visible_at(covered, "/volumes/data") == covered[1]
    assert visible_at(alone, "/") is None


def test_what_a_path_leads_to_here() -> None:
    root = visible_at(mounts(), "/proc")
    assert root is not None
    assert root.fstype == "proc"
