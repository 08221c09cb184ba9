"""A request that ends every worker is refused, and workers that do not get on start ever later."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.crash.installed import Installed
from tests.crash.killer import Target, killer_at, serving_at
from tests.patience import PATIENCE_S
from tests.served import needs_root, read_log, status_of, wait_until

pytestmark = needs_root

_CRASHES: Final = 3
_KILLS: Final = 6
"""After the last one the successor is due in 1.6 s."""
_BUG: Final = """
    if name == b"poison":
        os.kill(os.getpid(), 11)
"""


@contextmanager
def another_client(volume: Path) -> Iterator[list[OSError]]:
    """Work on the volume inside the block; gives the errors that were met."""
    errors: list[OSError] = []
    end = threading.Event()

    def work() -> None:
        while not end.is_set():
            try:
                (volume / "other").mkdir()
                (volume / "other").rmdir()
            except OSError as error:
                errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield errors
    finally:
        end.set()
        thread.join(PATIENCE_S)


def test_a_request_that_ends_every_worker_is_refused(installed: Installed) -> None:
    installed.change(
        "volume/namespace.py", '    """Make a directory."""\n', f'    """Bug."""{_BUG}'
    )
    installed("reload", installed.mountpoint)
    restarts = installed.serving()[2]
    with another_client(installed.mountpoint) as errors:
        # In a process of its own: should it never be answered, the test goes on and fails.
        client = subprocess.Popen(["mkdir", "poison"], cwd=installed.mountpoint,
                                  stderr=subprocess.PIPE, text=True)  # fmt: skip
        wait_until(lambda: client.poll() is not None, "an answer to the request")
        assert "Input/output error" in client.communicate()[1]
        (installed.mountpoint / "harmless").mkdir()
    assert errors == []

    assert installed.serving()[2] == restarts + _CRASHES
    records = read_log(installed.log)
    reasons = [record["reason"] for record in records if record["op"] == "restart"]
    assert all("SIGSEGV" in reason for reason in reasons[-_CRASHES:])
    [refused] = [record for record in records if record.get("path") == "/poison"
                 and record["op"] == "mkdir"]  # fmt: skip
    assert refused["result"] == "EIO"
    assert "again and again" in refused["reason"]
    assert refused["pid"] == client.pid
    assert not (installed.mountpoint / "poison").exists()


def has_no_worker(mountpoint: Path) -> bool:
    serving = serving_at(mountpoint)
    return serving is not None and serving.worker == 0


def test_workers_that_do_not_get_on_start_ever_later(installed: Installed) -> None:
    killer = killer_at(installed.mountpoint, (), (0, 0))
    for _time in range(_KILLS - 1):
        killer.strike(Target.WORKER)
    os.kill(installed.serving()[1], signal.SIGKILL)
    wait_until(lambda: has_no_worker(installed.mountpoint), "the wait for the next one")
    shown = status_of(installed.mountpoint)
    assert shown["worker"] == 0
    assert shown["message"].startswith("worker killed by SIGKILL; the next one starts in ")

    # Clients wait so long, and see nothing else; then all is as before.
    (installed.mountpoint / "made after the wait").mkdir()
    assert installed.last_record("mkdir")["result"] == "ok"
    assert status_of(installed.mountpoint)["message"] == ""
    assert installed.serving()[2] == _KILLS
