"""Databases: locks, shared memory maps, fsync, and content that is checked afterwards."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.programs.conftest import Run
from tests.served import Served, needs_root

pytestmark = needs_root

_INSERTER = """\
import sqlite3, sys
path, mark = sys.argv[1:]
db = sqlite3.connect(path, timeout=30, isolation_level=None)
assert db.execute("pragma journal_mode").fetchone() == ("wal",)
for number in range(200):
    db.execute("begin immediate")
    (total,) = db.execute("select total from sum").fetchone()
    db.execute("insert into row values (?, ?, ?)", (mark, number, "x" * 500))
    db.execute("update sum set total = ?", (total + number,))
    db.execute("commit")
    db.execute("select count(*) from row").fetchone()
"""


@pytest.mark.parametrize("level", ["all", "data"])
def test_sqlite_in_wal_mode_serves_two_processes(volume: Path, run: Run) -> None:
    path = volume / "a.db"
    with sqlite3.connect(path) as database:
        assert database.execute("pragma journal_mode=wal").fetchone() == ("wal",)
        database.execute("create table row (mark text, number int, content text)")
        database.execute("create index by_number on row (number, mark)")
        database.execute("create table sum (total int)")
        database.execute("insert into sum values (0)")
    database.close()

    inserters = [
        subprocess.Popen([sys.executable, "-c", _INSERTER, path, mark]) for mark in ("one", "two")
    ]
    assert [inserter.wait(timeout=PATIENCE_S) for inserter in inserters] == [0, 0]

    database = sqlite3.connect(path)
    assert database.execute("select count(*) from row").fetchone() == (400,)
    assert database.execute("select total from sum").fetchone() == (2 * sum(range(200)),)
    database.close()
    # Another program, which maps the database itself, too.
    said = run("sqlite3", path, "pragma mmap_size=100000000", "pragma integrity_check",
               "select count(*) from row", "vacuum")  # fmt: skip
    assert said.splitlines()[1:] == ["ok", "400"]
    assert sorted(path.name for path in volume.iterdir()) == ["a.db"]


def test_sqlite_rolls_back_what_a_killed_process_left(volume: Path, run: Run) -> None:
    path = volume / "a.db"
    run("sqlite3", path, "create table t (x)", "insert into t values (1)")
    program = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('pragma cache_size=1')\n"
        "db.execute('begin')\n"
        "for n in range(2000): db.execute('insert into t values (?)', ('x' * 500,))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, path], check=False).returncode == -9
    assert (volume / "a.db-journal").exists()
    said = run("sqlite3", path, "select count(*) from t", "pragma integrity_check")
    assert said.splitlines() == ["1", "ok"]


class Postgres:
    """A cluster on the volume, run by the user postgres."""

    def __init__(self, data: Path, socket_directory: Path) -> None:
        self.data = data
        self.environment = {
            "PATH": f"{_binaries()}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC",
            "PGHOST": str(socket_directory), "PGPORT": "54321", "PGDATABASE": "postgres",
            "PGDATA": str(data), "HOME": "/nonexistent",
        }  # fmt: skip
        self._socket_directory = socket_directory

    def __call__(self, *command: str, timeout: float = 60, check: bool = True) -> str:
        # To a file and not a pipe: the server keeps what pg_ctl's standard output was.
        output = self._socket_directory / "output"
        with output.open("wb") as file:
            done = subprocess.run(
                command, env=self.environment, cwd="/", timeout=timeout, user="postgres",
                group="postgres", extra_groups=[], stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
        said = output.read_text(errors="replace")
        assert done.returncode == 0 or not check, f"{command}: {said}"
        return said

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the server; it is stopped whatever happens."""
        options = f"-k {self._socket_directory} -c listen_addresses='' -c shared_buffers=16MB"
        log = str(self._socket_directory / "server.log")
        self("pg_ctl", "start", "-w", "-t", "50", "-o", options, "-l", log)
        try:
            yield
        finally:
            self("pg_ctl", "stop", "-w", "-m", "fast", "-t", "50", check=False)
        assert not (self.data / "postmaster.pid").exists()


def _binaries() -> Path:
    return max(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture
def postgres(served: Served, tmp_path: Path) -> Postgres:
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    data = served.mountpoint / "data"
    data.mkdir(mode=0o700)
    for directory in (sockets, data):
        shutil.chown(directory, "postgres", "postgres")
    # The limit of a socket's address is 108 bytes.
    assert len(os.fsencode(sockets)) < 90
    return Postgres(data, sockets)


@pytest.mark.parametrize("level", ["all", "data"])
def test_postgresql_keeps_its_data(postgres: Postgres) -> None:
    postgres("initdb", "--data-checksums", "--no-sync", "-A", "trust")
    with postgres.running():
        postgres("pgbench", "-i", "-q", "-s", "1")
        said = postgres("pgbench", "-c", "2", "-j", "2", "-t", "75")
        assert "number of failed transactions: 0 " in said
        assert "transactions actually processed: 150/150" in said
    postgres("pg_checksums", "--check")
    with postgres.running():
        sums = postgres("psql", "-XAtc", "select (select sum(abalance) from pgbench_accounts), "
                        "(select sum(delta) from pgbench_history)")  # fmt: skip
        accounts, history = sums.strip().split("|")
        assert accounts == history
        assert postgres("psql", "-XAtc", "select count(*) from pgbench_history") == "150\n"


def test_postgresql_recovers_from_a_crash(postgres: Postgres) -> None:
    postgres("initdb", "--data-checksums", "--no-sync", "-A", "trust")
    with postgres.running():
        postgres("psql", "-XAtc", "create table t as select generate_series(1, 20000) as n")
        postgres("pg_ctl", "stop", "-m", "immediate", "-w")
        (postgres.data / "postmaster.pid").unlink(missing_ok=True)
    with postgres.running():
        assert postgres("psql", "-XAtc", "select sum(n) from t") == "200010000\n"
    postgres("pg_checksums", "--check")
