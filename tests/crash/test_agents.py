"""The agent of a log is there whatever dies, and its absence is told."""

import os
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from fusevol.logagent import status
from fusevol.logagent.positions import PositionsFile
from fusevol.logs.log_files import rotated_by_fusevol
from fusevol.mounts import registry
from fusevol.record.record import decode
from tests.crash.installed import mounted_by
from tests.crash.killer import Target, killer_at
from tests.promises.receiver import Receiver
from tests.served import Served, fusevol, needs_root, read_log, runs, serve, wait_until

pytestmark = [needs_root, pytest.mark.timeout(240)]

_PATIENCE_S: Final = 40.0


def _agent(log: Path) -> int:
    told = status.read(str(log))
    return told.pid if told is not None and runs(told.pid) else 0


def _make_records(served: Served) -> None:
    for number in range(300):
        (served.mountpoint / f"missing-{number}").exists()


@pytest.mark.parametrize(
    "before", [(), (Target.RELOAD,), (Target.KEEPER,), (Target.AGENT,), (Target.RELOAD,) * 2]
)
def test_rotation_goes_on_whatever_died(tmp_path: Path, before: tuple[Target, ...]) -> None:
    with serve(tmp_path, "-o", "rotate_size=20K") as served:
        wait_until(lambda: _agent(served.log), "the agent")
        killer = killer_at(served.mountpoint, (), (0, 0))
        for target in (*before, *(Target.WORKER,) * 3):
            killer.strike(target)
            wait_until(lambda: _agent(served.log), "an agent", _PATIENCE_S)
            count = len(rotated_by_fusevol(str(served.log)))
            _make_records(served)
            wait_until(lambda: len(rotated_by_fusevol(str(served.log))) > count, "a rotation")  # noqa: B023
        entry = registry.get(str(served.mountpoint))
        assert entry is not None
        assert entry.agent_trouble == ""


def test_nothing_is_left_of_agents_that_have_ended(tmp_path: Path) -> None:
    with serve(tmp_path, "-o", "rotate_size=20K") as served:
        wait_until(lambda: _agent(served.log), "the agent")
        for _ in range(2):
            before = _agent(served.log)
            fusevol("reload", served.mountpoint)
            wait_until(lambda: _agent(served.log) not in (0, before), "another", _PATIENCE_S)  # noqa: B023
        keeper = served.status()["pid"]
        children = Path(f"/proc/{keeper}/task/{keeper}/children")
        killer_at(served.mountpoint, (), (0, 0)).strike(Target.WORKER)
        wait_until(lambda: len(children.read_text().split()) == 2, "worker and agent alone")


@pytest.mark.parametrize("after", ["moved away", "as it was"])
def test_a_new_sink_begins_with_the_mount_although_the_first_agent_did_not_live(
    tmp_path: Path, after: str
) -> None:
    log = tmp_path / "access.log"
    # An agent waits for this.
    positions = PositionsFile(str(log))
    with Receiver(tmp_path / "socket") as receiver:
        with serve(tmp_path, "-o", f"sinks=unix:{tmp_path}/socket", log=log) as served:
            for number in range(5):
                (served.mountpoint / f"d{number}").mkdir()
            before = served.status()["pid"]
            os.kill(before, signal.SIGKILL)
            wait_until(lambda: served.status()["pid"] != before, "another keeper")
            last = served.last_seq()
            if after == "moved away":
                log.rename(tmp_path / "elsewhere")
                fusevol("reload", "--logs", served.mountpoint)
            positions.close()
            (served.mountpoint / "e").mkdir()
            wait_until(lambda: any(b'"/e"' in line for line in receiver.lines), "a record")
        records = [decode(line) for line in receiver.lines]
    if after == "moved away":
        assert (records[0].op, records[0].seq >= last) == ("gap", True)
        assert records[0].lost == records[0].seq
    else:
        assert [record.seq for record in records] == list(range(1, len(records) + 1))


def test_an_agent_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    with mounted_by(tmp_path, "-o", "rotate_size=1M") as installed:
        wait_until(lambda: _agent(installed.log), "the agent")
        (installed.package / "logagent/main.py").rename(tmp_path / "away")
        keeper, worker, _ = installed.serving()
        os.kill(_agent(installed.log), signal.SIGKILL)

        def trouble() -> str:
            entry = registry.get(str(installed.mountpoint))
            assert entry is not None
            return entry.agent_trouble

        wait_until(lambda: "failed with status 1" in trouble(), "the trouble", _PATIENCE_S)
        assert "no rotation" in fusevol("status").stdout
        assert installed.last_record("agent")["result"] == "EIO"
        (installed.mountpoint / "file").write_text("still served")
        (tmp_path / "away").rename(installed.package / "logagent/main.py")
        wait_until(lambda: not trouble(), "an agent at work", _PATIENCE_S)
        wait_until(lambda: installed.last_record("agent")["result"] == "ok", "its record")
        assert installed.serving() == (keeper, worker, 0)
    told = [record["result"] for record in read_log(installed.log) if record["op"] == "agent"]
    assert told == ["EIO", "ok"]


def test_no_descriptors_are_no_end_of_the_mount(tmp_path: Path) -> None:
    """Neither an agent nor a worker can be started then; both come when they can."""
    with serve(tmp_path, "-o", "rotate_size=1M") as served:
        wait_until(lambda: _agent(served.log), "the agent")
        before = served.status()
        keeper, agent = before["pid"], _agent(served.log)
        limits = resource.prlimit(keeper, resource.RLIMIT_NOFILE)
        resource.prlimit(keeper, resource.RLIMIT_NOFILE, (3, limits[1]))
        os.kill(agent, signal.SIGKILL)
        messages = Path(registry.messages_path(str(served.mountpoint)))
        wait_until(lambda: "agent cannot be started" in messages.read_text(), "trouble", 30)
        (served.mountpoint / "file").write_text("still served")
        os.kill(before["worker"], signal.SIGKILL)
        wait_until(lambda: "cannot start another" in messages.read_text(), "the message", 30)
        with ThreadPoolExecutor(1) as threads:
            # It waits until there is a worker again.
            client = threads.submit((served.mountpoint / "other").write_text, "content")
            resource.prlimit(keeper, resource.RLIMIT_NOFILE, limits)
            assert client.result(30) == len("content")
        wait_until(lambda: _agent(served.log) not in (0, agent), "another agent", _PATIENCE_S)
        now = served.status()
        assert (now["pid"], now["message"]) == (keeper, "")
        assert now["worker"] != before["worker"]
