"""Sources that hang, as a process beside the tests, and who waits for them."""

import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fusevol.linux.mountinfo import mount_at
from fusevol.linux.mounts import MNT_DETACH, umount
from tests.patience import PATIENCE_S
from tests.served import FUSEVOL, runs, wait_until

_PROGRAM: Final = Path(__file__).with_name("file_system.py")


@dataclass
class SlowSource:
    """A mounted file system of `file_system.py`."""

    path: Path
    process: "subprocess.Popen[bytes]"

    def await_line(self, line: str) -> None:
        """Wait until the file system says that an operation hangs."""
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        assert ready, f"no {line!r} within {PATIENCE_S} s"
        assert self.process.stdout.readline().decode().strip() == line

    def release(self) -> None:
        """Let what hangs go on, and be answered."""
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGUSR1)

    @contextmanager
    def client(
        self, code: str, path: Path, *, keeps_hanging: bool = False
    ) -> Iterator["subprocess.Popen[str]"]:
        """A process that runs Python code with a path; it is let go on and killed after the block.

        While its call waits for a source it cannot always be killed.

        Args:
            keeps_hanging: what hangs does so still after the block.
        """
        with subprocess.Popen(
            [sys.executable, "-I", "-c", f"import os, sys; path = sys.argv[1]; {code}", path],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd="/",
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                if not keeps_hanging:
                    self.release()
                process.kill()
                process.wait(PATIENCE_S)

    def stop(self) -> None:
        """Have the file system not even take requests, until `release`."""
        self.process.send_signal(signal.SIGSTOP)


_GUARD: Final = """\
import subprocess, sys
directory, fusevol = sys.argv[1:]
if not sys.stdin.read():
    for line in reversed(open("/proc/self/mountinfo", errors="surrogateescape").readlines()):
        place = line.split()[4]
        if place.startswith(directory) and " fuse.fusevol " in line:
            subprocess.run([fusevol, "unmount", "--force", place])
        elif place.startswith(directory):
            subprocess.run(["umount", "--lazy", place])
"""


@contextmanager
def _guarded(directory: Path) -> Iterator[None]:
    """End the mounts below a directory if the process of the tests is killed inside the block.

    A test that hangs can be ended in no other way.
    """
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _GUARD, f"{directory}/", FUSEVOL],
        stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
    ) as guard:  # fmt: skip
        assert guard.stdin
        try:
            yield
        finally:
            guard.stdin.write(b"done")


@contextmanager
def slow_source(path: Path) -> Iterator[SlowSource]:
    """A file system that hangs, at `path` inside the block; whoever waits for it then fails."""
    with _guarded(path.parent):
        yield from _mounted(path)


def _mounted(path: Path) -> Iterator[SlowSource]:
    path.mkdir()
    with subprocess.Popen(
        [sys.executable, "-I", _PROGRAM, path], stdout=subprocess.PIPE, bufsize=0, cwd="/"
    ) as process:
        source = SlowSource(path, process)
        try:
            source.await_line("ready")
            yield source
        finally:
            # The end of the server is the end of the connection, for all who wait.
            process.kill()
            process.wait()
            while mount_at(str(path)):
                umount(str(path), MNT_DETACH)


def await_ends(*pids: int) -> None:
    """Wait until processes have ended."""
    wait_until(lambda: not any(map(runs, pids)), f"end of {pids}")
