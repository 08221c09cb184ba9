"""What engines leave on a machine and how it goes: mounts, processes, control groups.

Everything is found below one directory that belongs to the test run, so nothing of others is hit.
"""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from fusevol.containers.trees import remove_tree
from fusevol.linux.mounts import MNT_DETACH, MS_BIND, make_shared, mount, umount
from tests.patience import PATIENCE_S
from tests.served import runs, wait_until

DISK: Final = "/var/tmp"
"""Not a tmpfs (overlay2 wants trusted.* attributes below it); short, for the paths of sockets."""


TRACER: Final = (
    "strace", "-D", "-f", "-qq", "-ttt", "-s", "4096", "-e", "trace=mount,move_mount,pivot_root",
)  # fmt: skip
"""Writes down how a root file system is put together."""

_TRACED: Final = """\
#!/bin/sh
# Traced while the directory {trace} is there.
if [ -d {trace} ]; then exec {tracer} -o {trace}/$$ {program} "$@"; fi
exec {program} "$@"
"""
_CGROUPS: Final = Path("/sys/fs/cgroup")


class Mount(NamedTuple):
    """A line of /proc/PID/mountinfo (proc_pid_mountinfo(5))."""

    id: int
    parent: int
    device: str
    root: str
    point: str
    fstype: str
    source: str


def mounts(pid: int | str = "self") -> list[Mount]:
    """Return the mounts that a process sees, in the order of the table."""
    found = []
    for line in Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        dash = fields.index("-")
        found.append(
            Mount(
                int(fields[0]), int(fields[1]), fields[2], _decoded(fields[3]),
                _decoded(fields[4]), fields[dash + 1], _decoded(fields[dash + 2]),
            )
        )  # fmt: skip
    return found


def _decoded(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def mounts_below(directory: Path) -> list[str]:
    """Return the mount points below a directory, the newest last."""
    return [mount.point for mount in mounts() if mount.point.startswith(f"{directory}/")]


def unmount_below(directory: Path) -> None:
    """Take everything from the name space that is mounted below a directory."""
    for point in reversed(mounts_below(directory)):
        try:
            umount(point, MNT_DETACH)
        except OSError:
            # Propagation may have taken it along with another.
            continue


def processes_of(directory: Path) -> list[int]:
    """Return the ids of processes that have a directory of the run on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if os.fsencode(f"{directory}/") in command:
                found.append(int(entry.name))
    return found


def end(pid: int, number: signal.Signals = signal.SIGTERM, seconds: float = PATIENCE_S) -> bool:
    """End a process and wait until it is gone; SIGKILL if it takes too long.

    Returns:
        Whether `number` was enough.
    """
    try:
        os.kill(pid, number)
        wait_until(lambda: not runs(pid), f"end of {pid}", seconds)
    except ProcessLookupError:
        return True
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not runs(pid), f"end of {pid} after SIGKILL", seconds)
        return False
    return True


def sweep(directory: Path) -> list[str]:
    """End processes of a directory and unmount what is below it; return what had to go."""
    left = []
    for pid in processes_of(directory):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        left.append(command.decode(errors="replace"))
        end(pid, signal.SIGKILL)
    left += mounts_below(directory)
    unmount_below(directory)
    return left


def remove_empty_cgroups(name: str) -> None:
    """Remove what an engine made at the top of each hierarchy; one that is in use stays."""
    for path in (*_CGROUPS.glob(f"*/{name}/conmon"), *_CGROUPS.glob(f"*/{name}"), _CGROUPS / name):
        try:
            path.rmdir()
        except OSError:
            continue


def traceable(program: Path | str, directory: Path) -> Path:
    """Return a script that runs a program, under strace(1) while `directory`/trace is there."""
    script = directory / f"traceable-{Path(program).name}"
    trace = directory / "trace"
    script.write_text(_TRACED.format(trace=trace, tracer=" ".join(TRACER), program=program))
    script.chmod(0o755)
    return script


@contextmanager
def workspace(prefix: str) -> Iterator[Path]:
    """A directory for an engine; fails if its end leaves processes or mounts there.

    Mounts below it show in other mount namespaces, as everywhere on a host that systemd started.
    """
    path = Path(tempfile.mkdtemp(prefix=f"fv-{prefix}-", dir=DISK))
    path.chmod(0o755)
    mount(str(path), str(path), "", MS_BIND, "")
    make_shared(str(path))
    try:
        yield path
    finally:
        left = sweep(path)
        umount(str(path), MNT_DETACH)
        # Also what is deeper than paths reach.
        remove_tree(path)
    assert not left, f"left behind in {path}: {left}"


def command(
    *words: str | Path, env: Mapping[str, str] | None = None, check: bool = True,
    input: bytes | None = None, seconds: float = PATIENCE_S,
) -> "subprocess.CompletedProcess[str]":  # fmt: skip
    """Run a program; fail with what it said if `check` and it does not succeed.

    Args:
        env: what to add to the environment.
    """
    done = subprocess.run(
        list(map(str, words)), input=input or b"", capture_output=True, timeout=seconds,
        env={**os.environ, **(env or {})}, check=False,
    )  # fmt: skip
    text = subprocess.CompletedProcess(
        done.args, done.returncode,
        done.stdout.decode(errors="surrogateescape"), done.stderr.decode(errors="surrogateescape"),
    )  # fmt: skip
    if check:
        assert text.returncode == 0, f"{' '.join(map(str, words))}: {text.stderr or text.stdout}"
    return text
