"""Positions in directories: small enough for programs without large-file support, and right."""

import os
import signal
from pathlib import Path

from fusevol.linux.directories import getdents
from fusevol.mounts import registry
from tests.mounted.mounting import Served

_FILES = 2000
_SHARING = 4
"""Entries whose hashes on ext4 may begin alike: of so many files, hardly ever two."""


def filled(served: Served, name: str) -> Path:
    (served.source / name).mkdir()
    for number in range(_FILES):
        (served.source / name / f"file-{number}").touch()
    return served.mountpoint / name


def read_all(fd: int) -> list[tuple[bytes, int]]:
    entries = []
    while more := getdents(fd):
        entries += more
    return entries


def test_they_fit_31_bits(served: Served) -> None:
    fd = os.open(filled(served, "small"), os.O_RDONLY)
    positions = [position for _, position in read_all(fd)]
    os.close(fd)
    assert len(positions) == _FILES + 2
    assert len([position for position in positions if position >= 1 << 31]) <= _SHARING
    assert positions[-1] < 1 << 31


def test_each_leads_to_the_next_entry(served: Served) -> None:
    fd = os.open(filled(served, "sought"), os.O_RDONLY)
    entries = read_all(fd)
    for number in (*range(0, len(entries) - 1, 97), len(entries) - 2, 0, 1):
        os.lseek(fd, entries[number][1], os.SEEK_SET)
        assert getdents(fd)[0][0] == entries[number + 1][0]
    os.lseek(fd, entries[-1][1], os.SEEK_SET)
    assert getdents(fd) == []
    os.lseek(fd, 0, os.SEEK_SET)
    assert read_all(fd) == entries
    os.close(fd)


def test_another_worker_goes_on_at_them(served: Served) -> None:
    fd = os.open(filled(served, "taken-over"), os.O_RDONLY)
    names = [name for name, _ in getdents(fd)]
    entry = registry.get(str(served.mountpoint))
    assert entry is not None
    os.kill(entry.worker, signal.SIGKILL)
    for name in names[2:50]:
        (served.source / "taken-over" / os.fsdecode(name)).unlink(missing_ok=True)
    names += [name for name, _ in read_all(fd)]
    os.close(fd)
    assert len(names) == len(set(names)) == _FILES + 2
