"""`fusevol reload`, and the rotation of logs by logrotate with the snippet that is shipped."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from fusevol.mounts import registry
from tests.patience import PATIENCE_S
from tests.served import (
    FUSEVOL,
    Served,
    assert_no_gap_in_numbers,
    fusevol,
    read_log,
    runs,
    serve,
    wait_until,
)

SNIPPET = Path(__file__).parents[2] / "systemd/fusevol.logrotate"


@pytest.fixture(autouse=True)
def _own_registry(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without arguments, `reload` reaches every mount that is registered, dead ones too."""
    monkeypatch.setenv("FUSEVOL_RUNTIME_DIRECTORY", str(tmp_path_factory.mktemp("run") / "fusevol"))


def test_records_go_on_in_a_new_file(tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        rotated = tmp_path / "access.log.1"
        (served.mountpoint / "before").touch()
        served.log.rename(rotated)
        (served.mountpoint / "between").touch()
        assert not served.log.exists()
        fusevol("reload", "--logs", served.mountpoint)
        wait_until(served.log.exists, "new log")
        (served.mountpoint / "after").touch()
    old, new = read_log(rotated), read_log(served.log)
    assert_no_gap_in_numbers(old + new)
    assert "/between" in [record.get("path") for record in old]
    assert "/after" in [record.get("path") for record in new]


def test_a_mount_that_was_killed_does_not_keep_others_from_it(tmp_path: Path) -> None:
    for name in ("dead", "live"):
        (tmp_path / name).mkdir()
    with serve(tmp_path / "dead") as dead, serve(tmp_path / "live") as live:
        status = dead.status()
        # Neither gets to start the other anew.
        for pid in (status["pid"], status["worker"]):
            os.kill(pid, signal.SIGSTOP)
        for pid in (status["pid"], status["worker"]):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not runs(status["pid"]), "end of the keeper")
        live.log.rename(tmp_path / "rotated")
        done = fusevol("reload", "--logs", check=False)
        assert done.returncode == 1
        assert f"no keeper runs for {dead.mountpoint}; unmount and mount again" in done.stderr
        wait_until(live.log.exists, "new log")
        fusevol("unmount", dead.mountpoint)


def test_what_is_asked_of_a_keeper_that_is_just_starting_is_done(tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        kept = (served.mountpoint / "kept").open("w")
        keeper = served.status()["pid"]
        for number in range(1, 6):
            os.kill(keeper, signal.SIGUSR1)
            # It executes itself about now: a signal that it does not expect would end it.
            for _ in range(40):
                os.kill(keeper, signal.SIGHUP)
                time.sleep(0.01)
            wait_until(partial(_has_restarted, served, number), "another worker")
        kept.write("kept")
        kept.close()
    assert (served.source / "kept").read_text() == "kept"


def _has_restarted(served: Served, times: int) -> bool:
    return bool(served.status()["restarts"] == times)


def test_unknown_mount(tmp_path: Path) -> None:
    done = fusevol("reload", tmp_path, check=False)
    assert done.returncode == 3
    assert done.stderr == (f"fusevol: no mount at {tmp_path}; `fusevol status` lists the mounts\n")


def test_other_processes_are_never_signalled(tmp_path: Path) -> None:
    with (
        serve(tmp_path) as served,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other,
    ):
        entry = registry.get(str(served.mountpoint))
        assert entry is not None
        name_another_process(served.mountpoint, other.pid)
        done = fusevol("reload", "--logs", served.mountpoint, check=False)
        assert done.returncode == 1
        assert "no keeper runs for" in done.stderr
        # Nor is it waited for.
        fusevol("unmount", served.mountpoint)
        wait_until(lambda: not runs(entry.pid), "end of the keeper")
        assert other.poll() is None
        assert other.stdin is not None
        other.stdin.write(b"\n")
        other.stdin.close()
    assert other.returncode == 0


def name_another_process(mountpoint: Path, pid: int) -> None:
    """Have the entry of a mount name a process that has got the id of those that kept it."""
    path = Path(registry.runtime_directory(), f"{registry.file_name(str(mountpoint))}.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": pid, "worker": pid}))


def test_logrotate_with_the_snippet_loses_nothing(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o700)
    config = tmp_path / "logrotate.conf"
    text = SNIPPET.read_text().replace("/var/log/fusevol", str(logs))
    config.write_text(text)
    config.chmod(0o644)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def rotate() -> None:
        inode = log.stat().st_ino
        subprocess.run(
            ["logrotate", "--force", "--state", tmp_path / "state", config],
            env={**os.environ, "PATH": path}, check=True, capture_output=True, text=True,
        )  # fmt: skip
        wait_until(lambda: log.exists() and log.stat().st_ino != inode, "new log")

    log = logs / "v.log"
    with serve(tmp_path, log=log) as served:
        for number in range(3):
            (served.mountpoint / f"file{number}").write_text("text")
            rotate()
    # A mount made anew on the log goes on with its numbers.
    with serve(tmp_path, log=log):
        pass
    unpacked = subprocess.run(
        ["zcat", logs / "v.log.3.gz", logs / "v.log.2.gz"], check=True, capture_output=True
    ).stdout
    records = [json.loads(line) for line in unpacked.splitlines()]
    assert_no_gap_in_numbers(records + read_log(logs / "v.log.1", log))


def test_logrotate_accepts_the_snippet() -> None:
    done = subprocess.run(
        ["logrotate", "--debug", SNIPPET], check=True, capture_output=True, text=True
    )
    assert "error" not in done.stderr.lower()
    assert "rotating pattern: /var/log/fusevol/*.log" in done.stderr


def test_it_reaches_who_succeeds_a_keeper_that_has_just_died(tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        before = registry.get(str(served.mountpoint))
        assert before is not None
        os.kill(before.worker, signal.SIGSTOP)
        os.kill(before.pid, signal.SIGKILL)
        wait_until(lambda: not runs(before.pid), "end of the keeper")
        reload = subprocess.Popen(
            [FUSEVOL, "reload", "--logs", served.mountpoint], stderr=subprocess.PIPE, text=True
        )
        # It has read the entry of the dead, or soon will.
        with contextlib.suppress(subprocess.TimeoutExpired):
            reload.wait(3)
        os.kill(before.worker, signal.SIGCONT)
        _, said = reload.communicate(timeout=PATIENCE_S)
        assert (reload.returncode, said) == (0, "")
