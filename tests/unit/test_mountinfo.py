"""Lines of /proc/self/mountinfo."""

import os

import pytest

from fusevol.linux.mountinfo import is_below, mounts, parse

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
