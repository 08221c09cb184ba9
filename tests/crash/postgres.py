"""PostgreSQL with checksums of its pages, under the load of pgbench."""

import shutil
import tempfile
from pathlib import Path

from tests.crash.workload import Figures, Place, main
from tests.programs.test_databases import Postgres

_TRANSACTIONS = 300
_CLIENTS = 4


def postgres(place: Place) -> Figures:
    """Run transactions; check the pages, the indexes and the sums.

    Raises:
        AssertionError: PostgreSQL met an error, or its data is not whole.
    """
    # A socket's path may have 107 bytes.
    sockets = Path(tempfile.mkdtemp(prefix="fv-pg", dir="/var/tmp"))
    data = place.directory / "data"
    data.mkdir(mode=0o700)
    for directory in (sockets, data):
        shutil.chown(directory, "postgres", "postgres")
    try:
        return _run(place, Postgres(data, sockets))
    finally:
        shutil.rmtree(sockets)


def _run(place: Place, server: Postgres) -> Figures:
    server("initdb", "--data-checksums", "--no-sync", "-A", "trust", timeout=300)
    rounds = 0
    with server.running():
        server("pgbench", "-i", "-q", "-s", "1", timeout=300)
        while rounds == 0 or place.goes_on():
            said = server("pgbench", "-n", "-c", str(_CLIENTS), "-j", "2", "-t",
                          str(_TRANSACTIONS // _CLIENTS), timeout=300)  # fmt: skip
            assert "number of failed transactions: 0 " in said, said
            rounds += 1
        server("psql", "-XAtc", "create extension amcheck")
        server("pg_amcheck", "--heapallindexed", "postgres", timeout=300)
        _compare_sums(server, rounds * _TRANSACTIONS)
    server("pg_checksums", "--check", timeout=300)
    return {"transactions": rounds * _TRANSACTIONS}


def _compare_sums(server: Postgres, transactions: int) -> None:
    found = server(
        "psql", "-XAtc", "select (select sum(abalance) from pgbench_accounts), "
        "(select sum(delta) from pgbench_history), (select count(*) from pgbench_history)",
    )  # fmt: skip
    accounts, history, count = found.strip().split("|")
    assert accounts == history, f"accounts say {accounts}, their history {history}"
    assert int(count) == transactions, f"{count} of {transactions} transactions"


if __name__ == "__main__":
    main(postgres)
