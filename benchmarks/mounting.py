"""Mounts a peer over a directory and takes it down again, whatever happened in between."""

import contextlib
import ctypes
import os
import subprocess
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks import processes
from benchmarks.processes import BenchmarkError

MOUNT_TIMEOUT_S: Final = 30.0
UNMOUNT_TIMEOUT_S: Final = 20.0

_CLONE_NEWNS: Final = 0x20000


@dataclass(frozen=True)
class Target:
    """Where one mount of one peer happens."""

    source: Path
    mountpoint: Path
    """Equal to `source` for peers that mount over the directory they serve."""
    log: Path | None
    """The access log, where the peer writes one into a file."""
    scratch: Path
    """An empty directory for configuration and messages, removed by the caller."""


@dataclass
class Mount:
    """One mount, as a context manager.

    `command` either returns when the mount is there (`stays` false) or serves it until it ends.
    """

    target: Target
    command: list[str]
    unmount_command: list[str]
    stays: bool = False
    started: float = 0.0
    """time.monotonic() just before the command was started."""
    _process: subprocess.Popen[bytes] | None = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._take_down)
            # A file, not a pipe: a daemon keeps what it inherits, and a pipe would never end.
            output = stack.enter_context((self.target.scratch / "mount.out").open("wb"))
            self.started = time.monotonic()
            process = stack.enter_context(
                processes.background(
                    self.command,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
            self._process = process
            self._wait_until_mounted(process)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None and not is_mounted(self.target.mountpoint):
                raise BenchmarkError(f"the mount was gone before its end: {self._message()}")
            if kind is None:
                self._unmount()
        finally:
            self._stack.close()

    def servers(self) -> list[int]:
        """The processes that serve this mount. There is one mount at a time, so all daemons do."""
        command = processes.family(self._process) if self._process else []
        return [*command, *processes.adopted()]

    def _wait_until_mounted(self, process: subprocess.Popen[bytes]) -> None:
        if self.stays:
            ready = processes.wait_until(
                lambda: process.poll() is not None or is_mounted(self.target.mountpoint),
                MOUNT_TIMEOUT_S,
                0.001,
            )
        else:
            ready = processes.wait_until(lambda: process.poll() is not None, MOUNT_TIMEOUT_S, 0.001)
        if not ready:
            raise BenchmarkError(f"not mounted within {MOUNT_TIMEOUT_S:.0f} s: {self._message()}")
        if process.poll() or not is_mounted(self.target.mountpoint):
            raise BenchmarkError(f"mounting ended with {process.poll()}: {self._message()}")
        # In a process of its own: a server that hangs must not hang the benchmark.
        processes.run(["stat", "--", self.target.mountpoint], timeout=MOUNT_TIMEOUT_S)

    def _unmount(self) -> None:
        """The orderly way; raises BenchmarkError if it does not work."""
        # A client that has just ended may hold the mount for a moment longer.
        for attempt in count(1):
            try:
                processes.run(self.unmount_command, timeout=UNMOUNT_TIMEOUT_S)
                break
            except BenchmarkError:
                if not is_mounted(self.target.mountpoint):
                    break
                if attempt == 5:
                    raise
                time.sleep(0.2 * attempt)
        if not processes.wait_until(lambda: not self.servers(), UNMOUNT_TIMEOUT_S):
            raise BenchmarkError(f"served on after the unmount: {self.servers()}")

    def _take_down(self) -> None:
        """The way that always works: detach the mount, kill what serves it. No-op if it is gone."""
        detach(self.target.mountpoint)
        for pid in self.servers():
            processes.kill(pid)
        processes.wait_until(lambda: not self.servers(), UNMOUNT_TIMEOUT_S)

    def _message(self) -> str:
        try:
            lines = (self.target.scratch / "mount.out").read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "no message"


def isolate() -> None:
    """Moves this process into a mount namespace of its own, where it may.

    Nobody else then sees the mounts of a run, or takes them away (as tests may that look for what
    they have left mounted), and no program that walks all mounts disturbs a measurement.
    """
    if os.geteuid() != 0 or ctypes.CDLL(None).unshare(_CLONE_NEWNS) != 0:
        return
    processes.run(["mount", "--make-rprivate", "/"], timeout=UNMOUNT_TIMEOUT_S)


def mount_points_below(directory: Path) -> list[Path]:
    """Mount points at or below a directory, deepest first, from /proc: touches none of them."""
    top = os.fsencode(directory)
    points = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        point = _unescape(line.split(b" ")[4])
        if point == top or point.startswith(top.rstrip(b"/") + b"/"):
            points.append(Path(os.fsdecode(point)))
    return sorted(points, key=lambda p: len(p.parts), reverse=True)


def is_mounted(directory: Path) -> bool:
    return directory in mount_points_below(directory)


def detach(directory: Path) -> None:
    """Takes away all mounts at or below a directory, at once and whether they answer or not."""
    for point in mount_points_below(directory):
        command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
        with contextlib.suppress(BenchmarkError):
            processes.run([*command, str(point)], timeout=UNMOUNT_TIMEOUT_S)


def file_system_type(path: Path) -> str:
    """The type of the file system that holds a path, such as `tmpfs`."""
    best, kind = b"", "unknown"
    wanted = os.fsencode(path.resolve())
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        point = _unescape(fields[4])
        below = wanted == point or wanted.startswith(point.rstrip(b"/") + b"/")
        # Of two mounts on one point the later one counts: it covers the other.
        if below and len(point) >= len(best):
            best, kind = point, fields[fields.index(b"-") + 1].decode()
    return kind


def _unescape(point: bytes) -> bytes:
    for code, character in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n")):
        point = point.replace(code, character)
    return point.replace(b"\\134", b"\\")
