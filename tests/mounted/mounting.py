"""Mounts for tests: real ones, made and ended by the command line."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from fusevol.linux.mountinfo import mount_at
from fusevol.linux.mounts import MNT_DETACH, mount, umount
from fusevol.record.record import AccessRecord, decode
from tests.patience import PATIENCE_S
from tests.served import end

T = TypeVar("T")

FUSEVOL: Final = Path(sys.executable).with_name("fusevol")
DISK: Final = "/var/tmp"
"""On a disk also where /tmp is a tmpfs."""


@dataclass(frozen=True)
class Served:
    """A source and the mount that serves it."""

    source: Path
    mountpoint: Path
    log: Path
    level: str

    def records(self) -> list[AccessRecord]:
        """Everything that is in the access log by now."""
        return [decode(line) for line in self.log.read_bytes().splitlines()]

    def awaited(self, wanted: Callable[[AccessRecord], bool]) -> AccessRecord:
        """The first record that is `wanted`; it may come a little later (releases do)."""
        return eventually(lambda: next(filter(wanted, self.records()), None), "no such record")

    @property
    def stale_for_s(self) -> float:
        """How long clients may see what was the case before a change on the host."""
        return 0.0 if self.level == "all" else 1.2


def eventually(probe: Callable[[], T | None], otherwise: str) -> T:
    """What `probe` returns as soon as it returns something."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = probe()
        if found is not None:
            return found
        time.sleep(0.005)
    raise AssertionError(otherwise)


def fusevol(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [FUSEVOL, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@contextmanager
def serving(
    source: Path,
    mountpoint: Path,
    log: Path,
    level: str = "all",
    options: str = "suid,dev",
    prefix: tuple[str, ...] = (),
) -> Iterator[Served]:
    """Serve `source` inside the block; fails if the mount does not end cleanly after it.

    Args:
        prefix: words that run the command, such as those of prlimit(1).
    """
    command = [*prefix, str(FUSEVOL), "mount", str(source), str(mountpoint)]
    command += ["--log", str(log), "--record", level, "-o", options]
    started = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert started.returncode == 0, started.stderr
    try:
        yield Served(source, mountpoint, log, level)
    finally:
        _end(mountpoint)


def _end(mountpoint: Path) -> None:
    try:
        end(mountpoint)
    except AssertionError:
        fusevol("unmount", "--lazy", mountpoint)
        raise
    assert mount_at(str(mountpoint)) is None, "unmount returned, and it is still mounted"


@contextmanager
def workspace(disk: str = DISK) -> Iterator[Path]:
    """A directory on a disk that other users may pass, with a short path for sockets."""
    path = Path(tempfile.mkdtemp(prefix="fv", dir=disk))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def tmpfs(path: Path) -> Iterator[Path]:
    """A tmpfs at `path` inside the block."""
    path.mkdir(exist_ok=True)
    mount("tmpfs", str(path), "tmpfs", 0, "mode=755,size=512m")
    try:
        yield path
    finally:
        umount(str(path), MNT_DETACH)


@contextmanager
def other_process(code: str, *arguments: str | Path) -> Iterator["subprocess.Popen[str]"]:
    """Run Python `code` in another process inside the block; it is killed if it does not end."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with process:
            yield process
            assert process.stdin
            process.stdin.close()
            assert process.wait(timeout=PATIENCE_S) == 0
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)


def said_by_other_process(code: str, *arguments: str | Path) -> str:
    """What Python `code` prints in another process."""
    with other_process(code, *arguments) as process:
        assert process.stdout
        return process.stdout.read().strip()
