"""/sbin/mount.fusevol, called by mount(8) itself.

Each script runs in a mount namespace of its own, in which /sbin has the link, so the host is left
as it is. Its mounts end with the namespace, as nothing else holds them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusevol.cli import mount_helper
from fusevol.errors import UsageError
from fusevol.model import RecordLevel
from fusevol.options.config import DEFAULT_FLAGS
from fusevol.options.mount_words import Options
from tests.patience import PATIENCE_S

BIN = Path(sys.executable).parent

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root to mount")

PREPARE = """
set -u
mkdir "$T/sbin" "$T/bin" "$T/source" "$T/mnt"
mount -t tmpfs tmpfs "$T/sbin"
mkdir "$T/sbin/upper" "$T/sbin/work"
mount -t overlay -o "lowerdir=/usr/sbin,upperdir=$T/sbin/upper,workdir=$T/sbin/work" o /usr/sbin \
    || exit 77
ln -s "$BIN/mount.fusevol" /usr/sbin/mount.fusevol
mount -t tmpfs tmpfs /usr/local/bin
ln -s "$BIN/fusevol" /usr/local/bin/fusevol
trap 'umount -l "$T/mnt" 2>/dev/null' EXIT
cd "$T"
"""


def script(tmp_path: Path, text: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", PREPARE + text],
        env={
            **os.environ, "T": str(tmp_path), "BIN": str(BIN),
            "FUSEVOL_RUNTIME_DIRECTORY": str(tmp_path / "run"),
        },
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(f"no overlay over /usr/sbin here: {done.stderr}")
    return done


def assert_nothing_else_said(done: "subprocess.CompletedProcess[str]") -> None:
    """Check that nothing was said but that the host does not see a mount of this namespace."""
    assert all("in a private mount namespace" in line for line in done.stderr.splitlines()), (
        done.stderr
    )


@needs_root
def test_mount_by_type(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        mount -t fusevol source mnt -o log=log,record=data,name=v,noauto,x-something=1 || exit
        findmnt -n -o SOURCE,FSTYPE mnt
        findmnt -n -o OPTIONS mnt
        echo text > mnt/file
        umount mnt
        cat source/file
        """,
    )
    assert_nothing_else_said(done)
    where, options, text = done.stdout.splitlines()
    assert where.split() == [str(tmp_path / "source"), "fuse.fusevol"]
    assert {"nosuid", "nodev", "allow_other"} <= set(options.split(","))
    assert text == "text"
    log = (tmp_path / "log").read_text()
    assert '"volume":"v"' in log
    assert '"level":"data"' in log


@needs_root
def test_fstab_line(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        echo "$T/source $T/mnt fusevol log=$T/log,ro,nofail,_netdev,x-systemd.automount 0 0" > tab
        mount --fstab tab mnt; echo $?
        mount --fstab tab --all; echo $?
        findmnt -n mnt | wc -l
        touch mnt/new 2>&1
        umount mnt; echo $?
        """,
    )
    assert_nothing_else_said(done)
    first, again, mounts, refused, last = done.stdout.splitlines()
    assert (first, again, mounts, last) == ("0", "0", "1", "0")
    assert "Read-only file system" in refused


@needs_root
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("noatime,nodiratime", "noatime,nodiratime"), ("relatime", "relatime"),
        ("strictatime,lazytime", ""), ("defaults,norelatime,nostrictatime", "relatime"),
        ("user,nosymfollow,noexec,async", "nosymfollow,noexec"), ("noexec,exec", "relatime"),
        ("comment=disk,X-some=1,nouser,nolazytime,diratime,silent", "relatime"),
    ],
)  # fmt: skip
def test_fstab_line_with_words_of_mount(tmp_path: Path, words: str, shown: str) -> None:
    done = script(
        tmp_path,
        f"""
        mount -t tmpfs tmpfs source
        echo "$T/source $T/mnt fusevol log=none,{words} 0 0" > tab
        mount --fstab tab mnt || exit
        findmnt -n -o OPTIONS mnt
        umount mnt
        """,
    )
    assert done.returncode == 0
    assert_nothing_else_said(done)
    options = set(done.stdout.strip().split(","))
    assert set(filter(None, shown.split(","))) <= options


@needs_root
def test_noatime_leaves_the_times_of_access(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        mount -t tmpfs -o strictatime tmpfs source
        echo text > source/file
        touch -a -d 2020-01-01 source/file
        mount -t fusevol source mnt -o log=log,noatime && cat mnt/file && stat -c %X source/file
        umount mnt
        mount -t fusevol source mnt -o log=log && cat mnt/file && stat -c %X source/file
        umount mnt
        """,
    )
    assert_nothing_else_said(done)
    _, untouched, _, touched = done.stdout.splitlines()
    assert int(untouched) == 1577836800
    assert int(touched) > 1577836800


@needs_root
def test_type_of_mount_fuse3(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        test -x /sbin/mount.fuse || exit 78
        mount -t fuse.fusevol source mnt -o log=$T/log,nosuid,nodev || exit
        findmnt -n -o FSTYPE,OPTIONS mnt
        umount mnt
        """,
    )
    if done.returncode == 78:
        pytest.skip("mount.fuse is not installed")
    assert_nothing_else_said(done)
    assert done.stdout.startswith("fuse.fusevol rw,nosuid,nodev,")


@needs_root
@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("mount -t fusevol nix mnt -o log=log", 32, "nix does not exist"),
        ("mount -t fusevol source nix -o log=log", 32, "nix does not exist"),
        ("mount -t fusevol source source/below -o log=log", 32, "below the source"),
        ("mount -t fusevol source mnt -o log=log,bogus", 1, "unknown mount option 'bogus'"),
        ("mount -t fusevol source mnt -o log=-", 1, "log=-"),
        ("mount.fusevol source", 1, "usage: mount.fusevol"),
        ("mount.fusevol -X source mnt", 1, "usage: mount.fusevol"),
        ("mount.fusevol source mnt -o remount,log=log", 1, "remount is not supported"),
        ("mount.fusevol source mnt -N /proc/1/ns/mnt", 32, "nsenter --mount="),
        ("mount -s -t fusevol source mnt -o log=log,record=some", 1, "invalid record=some"),
        ("mount -t fusevol source mnt -o log=none,sinks=stdout", 1, "the sink stdout"),
    ],
)
def test_failure(tmp_path: Path, command: str, status: int, message: str) -> None:
    done = script(tmp_path, f"{command}; echo $?; findmnt -n mnt")
    assert done.stdout == f"{status}\n"
    assert done.stderr.startswith("mount.fusevol: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@needs_root
def test_a_name_that_another_mount_has_is_refused(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        mkdir second
        mount -t fusevol source mnt -o log=none,name=v || exit
        mount -t fusevol source second -o log=none,name=v
        echo $?
        umount mnt
        """,
    )
    assert done.stdout == "32\n"
    assert f"name v is already used by the mount at {tmp_path}/mnt" in done.stderr


@needs_root
def test_sloppy_ignores_what_it_does_not_know(tmp_path: Path) -> None:
    done = script(tmp_path, "mount -s -t fusevol source mnt -o log=log,bogus,b=1,ro && umount mnt")
    assert done.returncode == 0
    assert_nothing_else_said(done)


@needs_root
def test_fake_checks_and_does_not_mount(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        mount -f -v -t fusevol source mnt -o log=log; echo $?
        mount -f -t fusevol nix mnt -o log=log; echo $?
        findmnt -n mnt
        """,
    )
    said, first, second = done.stdout.splitlines()
    places = f"{tmp_path}/source on {tmp_path}/mnt"
    assert said == f"mount.fusevol: {places}, level all, log {tmp_path}/log"
    assert (first, second) == ("0", "32")


def test_words_of_mount_are_dropped() -> None:
    assert mount_helper.read_options("rw,user=anna,comment=x,uhelper=y", sloppy=False) == Options()


def test_sloppy_keeps_what_is_known() -> None:
    options = mount_helper.read_options("what,name=a\\,b,suid,ever=1,record=data", sloppy=True)
    assert options == Options(name="a,b", record=RecordLevel.DATA, flags=DEFAULT_FLAGS & ~2)


def test_unknown_word() -> None:
    with pytest.raises(UsageError, match="unknown mount option 'ever=1'"):
        mount_helper.read_options("rw,ever=1", sloppy=False)
