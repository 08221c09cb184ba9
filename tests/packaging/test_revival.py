"""What becomes of mounts when the service is killed, or all of its processes are."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from fusevol.mounts import registry
from tests.packaging.manager import Manager, managing
from tests.patience import PATIENCE_S
from tests.served import (
    FUSEVOL,
    assert_no_gap_in_numbers,
    is_mounted,
    kill_mount,
    needs_root,
    read_log,
    wait_until,
)

pytestmark = needs_root


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with managing(tmp_path) as manager:
        yield manager


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    for name in ("source", "volume"):
        (tmp_path / name).mkdir()
    (tmp_path / "source/file").write_text("content\n")
    yield tmp_path
    if is_mounted(tmp_path / "volume"):
        subprocess.run(["umount", "--lazy", tmp_path / "volume"], check=True)


_CLIENT: Final = """\
import sys
import time
reading, appending = open(sys.argv[1] + "/file"), open(sys.argv[1] + "/new", "a")
print("open", flush=True)
sys.stdin.readline()
appending.write("appended\\n")
appending.close()
print(reading.read(), end="", flush=True)
"""


@contextmanager
def _client(place: Path) -> Iterator["subprocess.Popen[str]"]:
    """Have a program of its own hold files open: a fork of ours would close them, and hang."""
    with subprocess.Popen(
        [sys.executable, "-c", _CLIENT, place / "volume"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as client:  # fmt: skip
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "open\n"
            yield client
        finally:
            client.kill()


@contextmanager
def _service(manager: Manager, place: Path) -> Iterator["subprocess.Popen[bytes]"]:
    words = ("mount", "-f", place / "source", place / "volume", "--log", place / "log")
    with manager.start(FUSEVOL, *words) as service:
        try:
            yield service
        finally:
            service.kill()


def _served(place: Path) -> registry.MountEntry:
    served = registry.get(str(place / "volume"))
    assert served is not None
    return served


def _stop(service: "subprocess.Popen[bytes]", manager: Manager) -> None:
    service.terminate()
    assert service.wait(PATIENCE_S) == 0
    assert "STOPPING=1" in manager.said
    wait_until(lambda: not manager.stored, "an empty store")


def test_the_mount_goes_on_while_the_service_is_restarted(manager: Manager, place: Path) -> None:
    with _service(manager, place) as service:
        manager.await_message("READY=1")
        wait_until(lambda: len(manager.stored) == 2, "stored descriptors")
        before = _served(place)
        service.kill()
        service.wait()
        assert (place / "volume/file").read_text() == "content\n"
    with _service(manager, place) as service:
        manager.await_message("READY=1", 2)
        assert _served(place).pid == before.pid
        assert _served(place).restarts == 0
        _stop(service, manager)
    assert not is_mounted(place / "volume")
    assert_no_gap_in_numbers(read_log(place / "log"))


def test_a_mount_is_revived_when_all_its_processes_were_killed(
    manager: Manager, place: Path
) -> None:
    with _service(manager, place) as service:
        manager.await_message("READY=1")
        wait_until(lambda: len(manager.stored) == 2, "stored descriptors")
        with _client(place) as client:
            service.kill()
            service.wait()
            before = _served(place)
            kill_mount(before.pid, before.worker)
            with _service(manager, place) as again:
                assert client.communicate("go on\n", timeout=PATIENCE_S)[0] == "content\n"
                assert (place / "source/new").read_text() == "appended\n"
                manager.await_message("READY=1", 2)
                _stop(again, manager)
    records = read_log(place / "log")
    assert_no_gap_in_numbers(records)
    (restart,) = [record for record in records if record["op"] == "restart"]
    assert restart["reason"] == "all processes were killed; open files were reopened"
    assert records[-1]["op"] == "unmount"


def test_the_service_revives_a_mount_whose_processes_are_killed(
    manager: Manager, place: Path
) -> None:
    with _service(manager, place) as service:
        manager.await_message("READY=1")
        wait_until(lambda: len(manager.stored) == 2, "stored descriptors")
        before = _served(place)
        with _client(place) as client:
            kill_mount(before.pid, before.worker)
            assert client.communicate("go on\n", timeout=PATIENCE_S)[0] == "content\n"
        assert os.path.exists(f"/proc/{service.pid}")
        service.send_signal(signal.SIGHUP)
        _stop(service, manager)
    assert [r["op"] for r in read_log(place / "log")].count("restart") == 1


def test_a_revived_keeper_that_is_killed_is_succeeded_by_its_worker(
    manager: Manager, place: Path
) -> None:
    with _service(manager, place) as service:
        manager.await_message("READY=1")
        wait_until(lambda: len(manager.stored) == 2, "stored descriptors")
        before = _served(place)
        kill_mount(before.pid, before.worker)
        wait_until(lambda: _served(place).pid != before.pid, "the revived keeper")
        revived = _served(place)
        time.sleep(0.5)
        os.kill(revived.pid, signal.SIGKILL)
        wait_until(lambda: _served(place).restarts == 2, "the worker to be the keeper")
        assert _served(place).pid == revived.worker
        assert (place / "volume/file").read_text() == "content\n"
        _stop(service, manager)
    assert [r["op"] for r in read_log(place / "log")].count("restart") == 2
