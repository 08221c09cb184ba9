"""Starts commands so that nothing of them outlives the benchmark, and finds what they left.

A daemon leaves the command that started it, and may empty its environment. It cannot leave a child
subreaper: this process is one (prctl(2)), so a daemon's new parent is this process and not init.
Only descendants of this process are ever signalled.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Final

_GRACE_S: Final = 10.0
_PR_SET_CHILD_SUBREAPER: Final = 36

_commands: set[int] = set()
"""The children that have a Popen object, which waits for them."""
_background: set[subprocess.Popen[bytes]] = set()


class BenchmarkError(Exception):
    """A command or a measurement did not do what it should; the text says what and why."""


def become_subreaper() -> None:
    """To be called once, before the first command."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0) != 0:
        raise BenchmarkError(f"prctl: {os.strerror(ctypes.get_errno())}")


def environment() -> dict[str, str]:
    """The environment of a command: the caller's, with messages in English."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def run(
    command: Sequence[str | Path],
    *,
    timeout: float,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> str:
    """Runs a command to its end and returns its stdout.

    Raises:
        BenchmarkError: it ended with another status than 0, or not within `timeout` seconds.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=env or environment(),
        start_new_session=True,
    )
    _commands.add(process.pid)
    try:
        output, errors = process.communicate(timeout=timeout)
    except BaseException as error:
        _kill_group(process)
        if isinstance(error, subprocess.TimeoutExpired):
            raise BenchmarkError(f"{_name(command)} did not end within {timeout:.0f} s") from None
        raise
    finally:
        _commands.discard(process.pid)
    if process.returncode:
        raise BenchmarkError(
            f"{_name(command)} ended with {process.returncode}: {_last_line(errors)}"
        )
    return output.decode(errors="replace")


@contextlib.contextmanager
def background(
    command: Sequence[str | Path],
    *,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    stop_signal: int = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command beside the body, and ends it after the body if it has not ended by then."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=environment(),
        start_new_session=True,
    )
    _commands.add(process.pid)
    _background.add(process)
    try:
        yield process
    finally:
        stop(process, stop_signal)
        _close(process)
        _background.discard(process)
        _commands.discard(process.pid)


def stop(process: subprocess.Popen[bytes], stop_signal: int = signal.SIGTERM) -> None:
    """Ends a process that `background` started: politely, then by SIGKILL."""
    if process.poll() is not None:
        return
    process.send_signal(stop_signal)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        _kill_group(process)


def sweep() -> None:
    """Ends all that is left of this run."""
    for process in list(_background):
        stop(process)
    for pid in adopted():
        kill(pid)
    wait_until(lambda: not adopted(), _GRACE_S)


def adopted() -> list[int]:
    """Daemons: the running processes whose parent was a command and is now us, and all of theirs.

    Those that have ended are reaped.
    """
    table = _table()
    ours = [pid for pid, (_, parent) in table.items() if parent == os.getpid()]
    orphans = [pid for pid in ours if pid not in _commands]
    for pid in orphans:
        if table[pid][0] in "ZX":
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
    return _with_descendants(table, orphans)


def family(process: subprocess.Popen[bytes]) -> list[int]:
    """A command, if it runs still, and its descendants."""
    return [] if process.poll() is not None else _with_descendants(_table(), [process.pid])


def wait_until(condition: Callable[[], bool], timeout: float, interval: float = 0.01) -> bool:
    """Polls; returns whether the condition came true within `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(interval)
    return True


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _with_descendants(table: dict[int, tuple[str, int]], pids: Iterable[int]) -> list[int]:
    found = set(pids)
    while more := {pid for pid, (_, parent) in table.items() if parent in found} - found:
        found |= more
    return sorted(pid for pid in found if pid in table and table[pid][0] not in "ZX")


def _table() -> dict[int, tuple[str, int]]:
    """State and parent of every process."""
    table = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text(errors="replace")
        except OSError:  # gone meanwhile
            continue
        # The name, in parentheses, may hold anything, also spaces and parentheses.
        fields = text.rpartition(")")[2].split()
        table[int(entry.parent.name)] = (fields[0], int(fields[1]))
    return table


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and what it started, and gives them a moment to be gone.

    A process that waits for a FUSE server which hangs cannot be killed: it ends when its mount
    does.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2)
    _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()


def _name(command: Sequence[str | Path]) -> str:
    return " ".join(
        Path(str(part)).name if n == 0 else str(part)[:40] for n, part in enumerate(command[:3])
    )


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"
