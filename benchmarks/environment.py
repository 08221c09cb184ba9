"""What a measurement depends on beside the code: machine, kernel, versions, file systems."""

import datetime as dt
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.mounting import file_system_type

_ASK_PYTHON: Final = """\
import platform
from importlib.metadata import PackageNotFoundError, version
print("python", platform.python_version())
for name in ("fusevol", "pyfuse3", "trio", "msgspec"):
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
"""


def describe(bench: Bench, fusevol: tuple[str, ...] | None) -> dict[str, str]:
    """Everything known now, in the order in which a report shows it."""
    facts = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "kernel": f"{platform.release()} {platform.version()}",
        "CPU": _cpu(),
        "cores": str(os.cpu_count()),
        "cores used": ", ".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0))),
        "memory": _memory(),
        "load average": load_average(),
        "file system of the sources": file_system_type(bench.data),
        "file system of logs": file_system_type(bench.logs),
        "file system of logs on disk": file_system_type(bench.disk),
        **_commit(),
        **_python_versions(fusevol),
        "libfuse 3": _first_line("fusermount3", "-V").rpartition(" ")[2],
        "libfuse 2 (LoggedFS)": _package("libfuse2", "libfuse2t64"),
        "bindfs": _first_line("bindfs", "--version").rpartition(" ")[2],
        "loggedfs": _package("loggedfs"),
        "git": _first_line("git", "--version").rpartition(" ")[2],
    }
    return {key: value for key, value in facts.items() if value}


def load_average() -> str:
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.1f} GiB"


def _commit() -> dict[str, str]:
    tree = str(Path(__file__).parents[1])
    commit = _first_line("git", "-C", tree, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return {}
    changed = _first_line("git", "-C", tree, "status", "--porcelain")
    return {"fusevol commit": commit + (" with changes" if changed else "")}


def _python_versions(fusevol: tuple[str, ...] | None) -> dict[str, str]:
    """Versions in the environment fusevol runs in, which need not be the benchmark's."""
    own = {"python": platform.python_version()}
    if fusevol is None:
        return own
    command = Path(shutil.which(fusevol[0]) or fusevol[0])
    python = command if command.name.startswith("python") else command.parent / "python"
    lines = _output(str(python), "-c", _ASK_PYTHON).splitlines()
    return dict(line.split(" ", 1) for line in lines) or own


def _package(*names: str) -> str:
    """The version of the first of these that dpkg knows as installed."""
    for name in names:
        if version := _first_line("dpkg-query", "-W", "-f", "${Version}", name):
            return version
    return ""


def _first_line(*command: str) -> str:
    lines = _output(*command).splitlines()
    return lines[0].strip() if lines else ""


def _output(*command: str) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""
