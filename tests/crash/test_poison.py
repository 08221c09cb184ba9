"""A request that ends every worker is refused, and workers that do not get on start ever later."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fusevol.mounts import registry
from tests.crash.installed import Installed
from tests.crash.killer import serving_at
from tests.patience import PATIENCE_S
from tests.served import needs_root, read_log, status_of, wait_until

pytestmark = needs_root

_CRASHES: Final = 3
_LONG_S: Final = 3.2
"""By then there is time to look. It takes seven kills."""
_MOST_KILLS: Final = 60
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
    assert "crashed the worker repeatedly" in refused["reason"]
    assert refused["pid"] == client.pid
    assert not (installed.mountpoint / "poison").exists()


def delay_s(mountpoint: Path) -> float:
    """Return how long the next worker was delayed for, if none is there; else 0."""
    entry = registry.get(str(mountpoint))
    if entry is None or entry.worker:
        return 0.0
    found = re.search(r"starts in ([0-9.]+) s", entry.message)
    return float(found[1]) if found else 0.0


def kill_one(mountpoint: Path) -> None:
    """Kill a worker; return when there is another, or when that is delayed for long."""
    before = serving_at(mountpoint)
    assert before is not None
    os.kill(before.worker, signal.SIGKILL)

    def is_over() -> bool:
        now = serving_at(mountpoint)
        is_replaced = now is not None and now.worker not in (0, before.worker)
        return is_replaced or delay_s(mountpoint) >= _LONG_S

    wait_until(is_over, "the next worker, or the wait for it")


def kill_until_delayed(installed: Installed) -> int:
    """Kill one worker after the other until the next is delayed for long; return how many.

    Whoever looks at all mounts of the machine meanwhile is served, and the delay is short again.
    """
    for count in range(1, _MOST_KILLS):
        kill_one(installed.mountpoint)
        if delay_s(installed.mountpoint) >= _LONG_S:
            return count
    raise AssertionError("no worker was ever delayed for long")


def test_workers_that_do_not_get_on_start_ever_later(installed: Installed) -> None:
    kills = kill_until_delayed(installed)
    shown = status_of(installed.mountpoint)
    assert shown["worker"] == 0
    assert shown["message"].startswith("worker killed by SIGKILL; the next one starts in ")

    # Clients wait so long, and see nothing else; then all is as before.
    (installed.mountpoint / "made after the wait").mkdir()
    assert installed.last_record("mkdir")["result"] == "ok"
    assert status_of(installed.mountpoint)["message"] == ""
    assert installed.serving()[2] == kills
