"""Appends go to the end that the file has, whatever the kernel takes for its end.

The kernel tells where an append is to go by the length it knows, which is another one than the
file's whenever the host changes the file, or another client does at the wrong moment.
"""

import contextlib
import itertools
import os
import random
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from fusevol.mounts import registry
from tests.mounted.checks.table import opened
from tests.mounted.mounting import Served, eventually, other_process, serving

_APPEND: Final = os.O_WRONLY | os.O_APPEND
_LENGTHS: Final = (1, 5, 17, 100, 4096, 5000)
_ENDS: Final = (0, 0, 3, 50, 4096)
_STEPS: Final = 60
_numbers: Final = itertools.count()


class _Writers:
    """A host and its clients, who work on one file; `number` tells apart what they write."""

    def __init__(self, host: Path, client: Path) -> None:
        self.host = host / "file"
        self.client = client / "file"
        self._open: dict[int, int] = {}
        self.host.touch()

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def host_appends(self, number: int, data: bytes) -> None:
        with opened(self.host, _APPEND) as fd:
            os.write(fd, data.upper())

    def host_truncates(self, number: int, data: bytes) -> None:
        os.truncate(self.host, _ENDS[number % len(_ENDS)])

    def host_writes_anew(self, number: int, data: bytes) -> None:
        self.host.write_bytes(data)

    def opens(self, number: int, data: bytes) -> None:
        which = len(self._open) % 2
        if which in self._open:
            os.close(self._open.pop(which))
        flags = _APPEND if which else os.O_RDWR | os.O_APPEND
        self._open[which] = os.open(self.client, flags)

    def appends(self, number: int, data: bytes) -> None:
        for fd in self._open.values():
            os.write(fd, data)

    def opens_and_appends(self, number: int, data: bytes) -> None:
        with opened(self.client, _APPEND) as fd:
            os.write(fd, data)

    def reopens_and_appends(self, number: int, data: bytes) -> None:
        for fd in self._open.values():
            with opened(f"/proc/self/fd/{fd}", _APPEND) as again:
                os.write(again, data)

    def opens_truncated(self, number: int, data: bytes) -> None:
        with opened(self.client, os.O_WRONLY | os.O_TRUNC):
            pass

    def opens_truncated_and_appends(self, number: int, data: bytes) -> None:
        with opened(self.client, _APPEND | os.O_TRUNC | os.O_CREAT) as fd:
            os.write(fd, data)

    def truncates(self, number: int, data: bytes) -> None:
        os.truncate(self.client, _ENDS[number % len(_ENDS)])

    def truncates_what_is_open(self, number: int, data: bytes) -> None:
        for fd in self._open.values():
            os.ftruncate(fd, _ENDS[number % len(_ENDS)])

    def asks(self, number: int, data: bytes) -> None:
        self.client.stat()

    def reads(self, number: int, data: bytes) -> None:
        with opened(self.client, os.O_RDONLY) as fd:
            os.read(fd, len(data))

    def lists(self, number: int, data: bytes) -> None:
        os.listdir(self.client.parent)

    def writes_in_place(self, number: int, data: bytes) -> None:
        with opened(self.client, os.O_WRONLY) as fd:
            os.pwrite(fd, data, number % 100)

    def copies(self, number: int, data: bytes) -> None:
        other = self.client.with_name("other")
        with opened(self.client, os.O_RDWR) as to, opened(other, os.O_RDWR | os.O_CREAT) as of:
            os.write(of, data)
            os.copy_file_range(of, to, len(data), 0, number % 100)
        other.unlink()

    def replaces(self, number: int, data: bytes) -> None:
        new = self.client.with_name("new")
        new.write_bytes(data)
        new.rename(self.client)


_STEP_NAMES: Final = tuple(name for name in vars(_Writers) if name[0] != "_" and name != "close")


@pytest.mark.parametrize("seed", range(12))
def test_host_and_clients_write_as_they_would_on_the_host(served: Served, seed: int) -> None:
    native = served.source.parent / f"native-{next(_numbers)}"
    native.mkdir()
    source = served.source / native.name
    source.mkdir()
    choose = random.Random(seed)
    with contextlib.ExitStack() as stack:
        here = _Writers(native, native)
        there = _Writers(source, served.mountpoint / source.name)
        stack.callback(here.close)
        stack.callback(there.close)
        done = []
        for number in range(_STEPS):
            # Appends through what is open are what can go wrong; so most steps are such.
            name = choose.choice(("host_appends", "appends", choose.choice(_STEP_NAMES)))
            name = name if number > 1 else "opens"
            data = (b"%05d." % number * 1000)[: choose.choice(_LENGTHS)]
            done.append(f"{name} {len(data)}")
            chosen = choose.randrange(1000)
            for writers in (here, there):
                getattr(writers, name)(chosen, data)
            assert there.host.read_bytes() == here.host.read_bytes(), done


def test_who_appends_does_not_overwrite_what_came_after_a_truncation(served: Served) -> None:
    host, client = _place(served)
    (host / "log").write_bytes(b"old\n")
    with opened(client / "log", _APPEND) as fd:
        with opened(client / "log", os.O_WRONLY | os.O_TRUNC):
            pass
        with opened(host / "log", _APPEND) as of_host:
            os.write(of_host, b"host\n")
        os.write(fd, b"client\n")
        assert (host / "log").read_bytes() == b"host\nclient\n"


_FILLS = """
import os, sys
with open(sys.argv[1], "ab", buffering=0) as log:
    while not os.path.exists(sys.argv[2]):
        log.write(b"one line\\n")
"""


def test_a_log_that_is_truncated_while_it_is_written_has_no_holes(served: Served) -> None:
    """What copytruncate of logrotate(8) does."""
    host, client = _place(served)
    log = client / "log"
    log.touch()
    with other_process(_FILLS, log, host / "end"), other_process(_FILLS, log, host / "end"):
        try:
            for _ in range(200):
                eventually(lambda: (host / "log").stat().st_size > 40 or None, "nobody writes")
                with opened(log, os.O_WRONLY | os.O_TRUNC):
                    pass
                assert b"\0" not in (host / "log").read_bytes()
        finally:
            (host / "end").touch()
    assert set((host / "log").read_bytes().splitlines(keepends=True)) <= {b"one line\n"}


@pytest.mark.parametrize("level", ["all", "data"])
def test_who_appends_first_after_a_restart(module_workspace: Path, level: str) -> None:
    """The new worker does not know which length the kernel was told."""
    base = module_workspace / f"restart-{level}"
    source, mountpoint = base / "source", base / "mount"
    source.mkdir(parents=True)
    mountpoint.mkdir()
    (source / "log").write_bytes(b"old\n")
    with (
        serving(source, mountpoint, base / "log", level) as served,
        opened(mountpoint / "log", os.O_PATH) as fd,
    ):
        kept = registry.get(str(mountpoint))
        assert kept is not None
        os.kill(kept.worker, signal.SIGKILL)
        served.awaited(lambda record: record.op == "restart")
        with opened(source / "log", _APPEND) as of_host:
            os.write(of_host, b"host\n")
        with opened(f"/proc/self/fd/{fd}", _APPEND) as again:
            os.write(again, b"client\n")
            os.write(again, b"more\n")
        assert (source / "log").read_bytes() == b"old\nhost\nclient\nmore\n"


def _place(served: Served) -> tuple[Path, Path]:
    host = served.source / f"place-{next(_numbers)}"
    host.mkdir()
    return host, served.mountpoint / host.name


_APPENDS_RECORDS = """
import os, sys
path, who = sys.argv[1:]
for number in range(600):
    fd = os.open(path, (os.O_WRONLY, os.O_RDWR)[number // 3 % 2] | os.O_APPEND)
    for size in (100, 4096, 5000):
        record = f"{who} {number} {size} ".encode()
        os.write(fd, record + b"." * (size - len(record) - 1) + b"\\n")
        os.fstat(fd)
    os.close(fd)
print(flush=True)
"""


def test_what_clients_and_host_append_at_once_is_whole(served: Served) -> None:
    host, client = _place(served)
    log = host / "log"
    log.touch()
    with ExitStack() as stack:
        for directory, who in ((client, "one"), (client, "two"), (client, "three"), (host, "host")):
            appending = other_process(_APPENDS_RECORDS, directory / "log", who)
            process = stack.enter_context(appending)
            assert process.stdout is not None
            stack.callback(process.stdout.readline)
    lines = log.read_bytes().splitlines(keepends=True)
    assert [len(line) for line in lines] == [int(line.split()[2]) for line in lines]
    assert len({tuple(line.split()[:3]) for line in lines}) == len(lines) == 4 * 3 * 600
