"""PostgreSQL with its data in the volume, driven by pgbench."""

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

from benchmarks import processes
from benchmarks.bench import Bench
from benchmarks.processes import BenchmarkError
from benchmarks.workloads import Place, Row, Workload, timed

_USER: Final = "postgres"
_CLIENTS: Final = "4"
_SETTINGS: Final = {
    "listen_addresses": "",
    # Too small for the data, so that reads reach the file system.
    "shared_buffers": "1MB",
    # It would start in the middle of one measurement or another.
    "autovacuum": "off",
}


class Postgres(Workload):
    """Initialises a cluster in the volume, fills it, and runs pgbench's own two loads on it.

    The socket is outside the volume. As root, all of it runs as user postgres.
    """

    name = "pgbench"
    title = f"PostgreSQL, scale 1, {_CLIENTS} clients"
    rows = (
        Row("initdb", "initdb", "s"),
        Row("pgbench_load", "pgbench -i", "s"),
        Row("pgbench_write", "pgbench, read and write", "tps"),
        Row("pgbench_read", "pgbench, read only", "tps"),
    )

    def missing(self) -> str | None:
        if _program("initdb") is None or _program("pgbench") is None:
            return "PostgreSQL's initdb and pgbench are not installed"
        if os.geteuid() == 0 and not _has_user():
            return f"there is no user {_USER} to run PostgreSQL as"
        return None

    def prepare(self, bench: Bench, source: Path) -> None:
        _make_directory(source / "cluster")

    def run(self, bench: Bench, place: Place) -> dict[str, float]:
        cluster = place.volume / "cluster"
        initdb = ["-D", str(cluster), "-A", "trust", "-U", _USER, "-E", "UTF8", "--locale=C"]
        values = {"initdb": timed(bench, _as_user("initdb", *initdb))}
        # A socket's path may have 107 bytes: keep it short.
        sockets = bench.work / "pg"
        _make_directory(sockets)
        segments: set[Path] = set()
        try:
            with (
                (sockets / "messages").open("wb") as messages,
                processes.background(
                    _server(cluster, sockets),
                    stdout=messages,
                    stderr=messages,
                    stop_signal=signal.SIGINT,  # "fast": ends the sessions and shuts down cleanly
                ) as server,
            ):
                ready = _as_user("pg_isready", "-q", "-h", str(sockets))
                if (
                    not processes.wait_until(
                        lambda: server.poll() is not None or _succeeds(ready), 60, 0.1
                    )
                    or server.poll() is not None
                ):
                    raise BenchmarkError(
                        f"PostgreSQL did not start: {_last_line(sockets / 'messages')}"
                    )
                segments = _shared_memory(server)
                values |= self._load(bench, sockets)
        finally:
            shutil.rmtree(sockets, ignore_errors=True)
            # A server that was killed, or lost its volume, leaves them.
            for segment in segments:
                segment.unlink(missing_ok=True)
        return values

    def _load(self, bench: Bench, sockets: Path) -> dict[str, float]:
        where = ["-h", str(sockets), "-U", _USER]
        load = timed(bench, _as_user("pgbench", *where, "-i", "-q", "-s", "1", _USER))
        values = {"pgbench_load": load}
        for name, options in (("pgbench_write", []), ("pgbench_read", ["-S"])):
            span = str(bench.size(4, 1))
            command = _as_user(
                "pgbench", *where, "-n", "-c", _CLIENTS, "-j", "2", "-T", span, *options, _USER
            )
            output = processes.run(command, timeout=bench.timeout)
            found = re.search(r"^tps = ([0-9.]+)", output, re.MULTILINE)
            if not found:
                raise BenchmarkError("pgbench gave no tps")
            values[name] = float(found[1])
        return values


def _server(cluster: Path, sockets: Path) -> list[str]:
    settings = {**_SETTINGS, "unix_socket_directories": str(sockets)}
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    return _as_user("postgres", "-D", str(cluster), *options)


def _as_user(program: str, *arguments: str) -> list[str]:
    path = _program(program)
    if path is None:
        raise BenchmarkError(f"{program} is not installed")
    if os.geteuid() != 0:
        return [path, *arguments]
    identity = [f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"]
    return ["setpriv", *identity, "--", path, *arguments]


def _program(name: str) -> str | None:
    """The newest version below Debian's directory, which is on no path; or what is on the path."""
    found = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"),
        key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])],
    )
    return str(found[-1]) if found else shutil.which(name)


def _has_user() -> bool:
    try:
        pwd.getpwnam(_USER)
    except KeyError:
        return False
    return True


def _make_directory(path: Path) -> None:
    path.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(path, _USER, _USER)


def _shared_memory(server: subprocess.Popen[bytes]) -> set[Path]:
    """The files in /dev/shm that a PostgreSQL server and its processes have mapped."""
    found: set[str] = set()
    for pid in processes.family(server):
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text()
            found.update(re.findall(r"/dev/shm/PostgreSQL\.\d+$", maps, re.MULTILINE))
    return {Path(path) for path in found}


def _succeeds(command: list[str]) -> bool:
    try:
        processes.run(command, timeout=20)
    except BenchmarkError:
        return False
    return True


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "no message"
