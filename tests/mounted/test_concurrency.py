"""Several processes use one tree at the same time, with and without the host as one of them."""

import json
import os
import stat
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.mounted.mounting import Served, other_process

_SECONDS: Final = 3
_ENOUGH: Final = 150
"""Calls that succeed, of each client, however busy the machine is."""

_BUSY: Final = """
import collections, errno, json, os, random, sys, time

top, seed, seconds, enough = (f(word) for f, word in zip((str, int, float, int), sys.argv[1:]))
dice = random.Random(seed)
names = [f"{top}/{a}" for a in "abc"] + [f"{top}/{a}/{b}" for a in "abc" for b in "abcd"]
outcomes = collections.Counter()


def write(path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        os.pwrite(fd, b"content of one length", 0)
        assert os.fstat(fd).st_size == 21
    finally:
        os.close(fd)


def read(path):
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        content = os.read(fd, 100)
        assert content in (b"", b"content of one length"), content
    finally:
        os.close(fd)


def listing(path):
    found = os.listdir(path)
    assert len(found) == len(set(found)), found


deeds = [
    (write, 1), (read, 1), (listing, 1), (os.mkdir, 1), (os.rmdir, 1), (os.unlink, 1),
    (os.lstat, 1), (lambda p: os.symlink("a", p), 1), (os.rename, 2), (os.link, 2),
    (lambda p: os.chmod(p, 0o755), 1), (lambda p: os.utime(p, follow_symlinks=False), 1),
]
end = time.monotonic() + seconds
while time.monotonic() < end or outcomes["ok"] < enough:
    deed, count = dice.choice(deeds)
    try:
        deed(*(dice.choice(names) for _ in range(count)))
        outcomes["ok"] += 1
    except OSError as error:
        outcomes[errno.errorcode[error.errno]] += 1
print(json.dumps(outcomes))
"""

_EXPECTED: Final = frozenset(
    ("ok", "ENOENT", "EEXIST", "ENOTDIR", "EISDIR", "ENOTEMPTY", "EINVAL", "EPERM", "ELOOP")
)
"""What the host itself answers to such races."""


def _race(*tops: Path) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    with ExitStack() as stack:
        processes = [
            stack.enter_context(other_process(_BUSY, top, f"{number}", f"{_SECONDS}", f"{_ENOUGH}"))
            for number, top in enumerate(tops)
        ]
        for process in processes:
            assert process.stdout
            outcomes.update(json.loads(process.stdout.read()))
    return outcomes


def _shape_of(top: Path) -> dict[str, tuple[int, int, int]]:
    found: dict[str, tuple[int, int, int]] = {}
    # By descriptors: the tree gets hundreds of levels deep.
    for directory, names, files, fd in os.fwalk(top):
        for name in (*names, *files):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            path = os.path.relpath(os.path.join(directory, name), top)
            found[path] = (status.st_mode, status.st_nlink, size)
    return found


def test_race_on_the_host_itself(tmp_path: Path) -> None:
    """Holds the table of what is expected."""
    outcomes = _race(tmp_path, tmp_path, tmp_path)
    assert outcomes.keys() <= _EXPECTED, outcomes


def test_race_of_clients(served: Served) -> None:
    top = served.mountpoint / "clients"
    top.mkdir()
    outcomes = _race(top, top, top, top)
    assert outcomes.keys() <= _EXPECTED, outcomes
    assert _shape_of(top) == _shape_of(served.source / "clients")


def test_race_of_clients_and_host(served: Served) -> None:
    """The host takes away what a client is about to use: ESTALE is allowed, nothing else is."""
    top = served.mountpoint / "both"
    top.mkdir()
    host = served.source / "both"
    outcomes = _race(top, top, host, host)
    assert outcomes.keys() <= _EXPECTED | {"ESTALE"}, outcomes
    if served.level == "all":
        assert _shape_of(top) == _shape_of(host)


@pytest.mark.parametrize("count", [40])
def test_processes_come_and_go(served: Served, count: int) -> None:
    """Each is known by its own name, with no descriptor left over for it."""
    path = served.mountpoint / "counted"
    path.write_text("x")
    for _ in range(count):
        with other_process("import sys; open(sys.argv[1]).read()", path):
            pass
    pids = {r.pid for r in served.records() if r.op == "open" and r.path == "/counted"}
    assert len(pids) >= count
