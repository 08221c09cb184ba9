"""A client that holds all it can get keeps nobody from closing, removing and being told by name."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.served import FUSEVOL, Served, fusevol, needs_root, wait_until

pytestmark = needs_root

_LIMIT: Final = 300

_HOLD: Final = """\
import os, sys
held = []
try:
    while True:
        held.append(os.open(f"{sys.argv[1]}/held-{len(held)}", os.O_CREAT | os.O_RDWR))
except OSError as error:
    print(len(held), error.errno, flush=True)
sys.stdin.readline()
bad = 0
for fd in held:
    try:
        os.write(fd, b"x")
        os.close(fd)
    except OSError:
        bad += 1
print(bad, flush=True)
"""


@contextmanager
def _serving_with_few_descriptors(directory: Path, level: str) -> Iterator[Served]:
    mount = Served(directory / "source", directory / "volume", directory / "access.log")
    mount.source.mkdir()
    mount.mountpoint.mkdir()
    subprocess.run(
        ["bash", "-c", f'ulimit -n {_LIMIT}; exec "$0" "$@"', FUSEVOL, "mount", mount.source,
         mount.mountpoint, "--log", mount.log, "--record", level],
        check=True, timeout=60,
    )  # fmt: skip
    try:
        yield mount
    finally:
        fusevol("unmount", "--lazy", mount.mountpoint)
    wait_until(lambda: mount.records()[-1]["op"] == "unmount", "the end of the mount")


@contextmanager
def _holding(mount: Served) -> Iterator["subprocess.Popen[str]"]:
    """Have a process hold all that it can get, until it is told to close it."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, mount.mountpoint],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            held, number = map(int, process.stdout.readline().split())
            assert held > _LIMIT // 4
            assert os.strerror(number) == "Too many open files in system"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("level", ["all", "data"])
def test_others_go_on_and_are_told_by_name(tmp_path: Path, level: str) -> None:
    with _serving_with_few_descriptors(tmp_path, level) as mount:
        root = mount.mountpoint
        for number in range(40):
            (root / f"kept-{number}" / "inner").mkdir(parents=True)
        with _holding(mount) as process:
            for number in range(40):
                # New processes, whose callers are not known yet; each needs directories.
                moved = f"kept-{number}/inner/moved"
                script = f"mkdir new; mv new {moved}; rmdir {moved}; ln -s x link; rm link"
                subprocess.run(["bash", "-ec", script], cwd=root, check=True)
            out, _ = process.communicate("\n")
            assert out == "0\n", "close(2) failed"
        (root / "again").write_text("there is room again")
    records = mount.records()
    operations = [record for record in records if "pid" in record]
    assert not [record for record in operations if "identity_error" in record]
    assert not [record for record in operations if "comm" not in record]
    removed = [record for record in records if record["op"] == "rmdir"]
    assert [record["comm"] for record in removed] == ["rmdir"] * 40
    refused = [record for record in records if record["result"] == "ENFILE"]
    assert {record["op"] for record in refused} == {"create"}


def test_what_is_refused_has_no_effect(tmp_path: Path) -> None:
    with _serving_with_few_descriptors(tmp_path, "all") as mount:
        (mount.mountpoint / "file").write_text("content")
        with _holding(mount) as process:
            with pytest.raises(OSError, match="Too many open files in system"):
                (mount.mountpoint / "new").touch()
            with pytest.raises(OSError, match="Too many open files in system"):
                (mount.mountpoint / "file").open("w")
            assert (mount.source / "file").read_text() == "content"
            assert not (mount.source / "new").exists()
            process.communicate("\n")


def test_unlinked_files_that_are_held_by_name_only_do_not_use_up_descriptors(
    tmp_path: Path,
) -> None:
    """Each of them has to stay pinned, as nothing leads to it any more; but not all there are."""
    held = []
    with _serving_with_few_descriptors(tmp_path, "all") as mount:
        try:
            for number in range(2 * _LIMIT):
                path = mount.mountpoint / f"file-{number}"
                os.mknod(path)
                held.append(os.open(path, os.O_PATH))
                path.unlink()
            (mount.mountpoint / "directory").mkdir()
            (mount.mountpoint / "directory").rmdir()
            assert os.fstat(held[0]).st_nlink == 0
        finally:
            for fd in held:
                os.close(fd)
        (mount.mountpoint / "new").write_text("there is room again")
    assert not [record for record in mount.records() if "identity_error" in record]
