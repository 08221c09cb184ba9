"""Chained logs of real mounts: through crashes, rotation, a full disk and changed options."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fusevol.mounts import registry
from tests.engines.daemon import plain_daemon
from tests.mounted.test_counters import worker_of
from tests.patience import PATIENCE_S
from tests.served import (
    Served,
    assert_no_gap_in_numbers,
    fusevol,
    needs_root,
    read_log,
    serve,
    wait_until,
)

pytestmark = needs_root


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEVOL_STATE_DIRECTORY", str(tmp_path / "state"))


# Slow enough for the log not to fill the disk by itself, however long the rest of a test takes.
_LOAD = """\
import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
number = 0
while not os.path.exists(sys.argv[2]):
    os.pwrite(fd, b"x", number)
    number += 1
    time.sleep(0.001)
print(number)
"""


@contextmanager
def _loaded(mount: Served, stop: Path) -> Iterator[None]:
    command = [sys.executable, "-c", _LOAD, str(mount.mountpoint / "f"), str(stop)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield
            stop.touch()
            output, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert int(output) > 100


def _succeed(mount: Served, number: int, pid: int) -> None:
    """End a process by a signal, and wait for the worker after it."""
    before = worker_of(mount)
    os.kill(pid, number)
    wait_until(lambda: worker_of(mount) not in (0, before), "next worker")


def _fill_for_a_while(disk: Path) -> None:
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    time.sleep(0.3)
    filler.unlink()


def _verified(*arguments: str | Path, code: int = 0) -> str:
    said = fusevol("log", "verify", *arguments, check=False)
    assert said.returncode == code, said.stdout + said.stderr
    return said.stdout + said.stderr


def test_a_chain_holds_whatever_happens_to_who_writes_it(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
    log = disk / "access.log"
    try:
        with (
            serve(tmp_path, "-o", "chain", "--record", "data", log=log) as mount,
            _loaded(mount, tmp_path / "stop"),
        ):
            _succeed(mount, signal.SIGKILL, worker_of(mount))
            log.rename(f"{log}.1")
            fusevol("reload", "--logs", mount.mountpoint)
            _verified(log)
            _succeed(mount, signal.SIGKILL, mount.status()["pid"])
            fusevol("reload", mount.mountpoint)
            _verified("--mount", mount.mountpoint)
            _fill_for_a_while(disk)
            wait_until(lambda: b'"op":"gap"' in log.read_bytes(), "gap record")
            _succeed(mount, signal.SIGKILL, worker_of(mount))
            _verified(log)
        told = json.loads(_verified("--json", log))
        records = read_log(Path(f"{log}.1"), log)
        assert told["records"] == told["last_seq"] == told["newest"] == len(records)
        assert told["checkpoints"] == 2
        ops = [record["op"] for record in records]
        assert ops.count("restart") >= 4
        assert ops[-2:] == ["unmount", "checkpoint"]
        at = len(records) // 2
        path = log if at >= len(read_log(Path(f"{log}.1"))) else Path(f"{log}.1")
        content = path.read_bytes()
        path.write_bytes(content.replace(b'"seq":%d,' % (at + 1), b'"seq":%d ,' % (at + 1)))
        assert f"record {at + 1} was changed" in _verified(log, code=1)
        assert json.loads(_verified("--json", log, code=1))["finding"]["seq"] == at + 1
        path.write_bytes(content)
        key = tmp_path / "key.pem"
        key.write_text(fusevol("log", "key", "--public").stdout)
        assert "2 checkpoints" in _verified("--public-key", key, log)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("policy", ["continue", "deny"])
def test_no_other_key_takes_the_place_of_one_that_is_gone(tmp_path: Path, policy: str) -> None:
    key, aside = tmp_path / "state/chain/key", tmp_path / "aside"
    with serve(tmp_path, "-o", f"chain,on_log_failure={policy}") as mount:
        (mount.mountpoint / "before").mkdir()
        key.rename(aside)
        os.kill(worker_of(mount), signal.SIGKILL)
        said = Path(registry.messages_path(str(mount.mountpoint)))
        wait_until(lambda: "restore it from a backup" in said.read_text(), "message")
        if policy == "continue":
            (mount.mountpoint / "without").mkdir()
        assert not key.exists()
        aside.rename(key)
        if policy == "continue":
            fusevol("reload", mount.mountpoint)
        (mount.mountpoint / "after").mkdir()
    chained = {record["path"]: "hash" in record for record in mount.records()
               if record["op"] == "mkdir"}  # fmt: skip
    without = {"/without": False} if policy == "continue" else {}
    assert chained == {"/before": True, **without, "/after": True}
    assert_no_gap_in_numbers(mount.records())
    if policy == "continue":
        assert "without a hash" in _verified(mount.log, code=1)
    else:
        _verified(mount.log)


def test_the_end_that_a_keeper_writes_is_in_the_chain(tmp_path: Path) -> None:
    with serve(tmp_path, "-o", "chain") as mount:
        (mount.mountpoint / "d").mkdir()
        os.kill(worker_of(mount), signal.SIGSTOP)
        fusevol("unmount", "--force", mount.mountpoint)
        wait_until(lambda: mount.records()[-1]["op"] == "checkpoint", "end of the log")
    assert mount.records()[-2]["op"] == "unmount"
    _verified(mount.log)


def test_a_volume_is_chained_and_not_any_more_while_it_is_used(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with plain_daemon() as daemon, daemon.client() as client:
        for options in ("format=ecs", "log=none"):
            said = daemon.refused("volume", "create", "other", "-o", "chain=true", "-o", options)
            assert "chain requires" in said
        daemon.create("data", source)
        place = Path(client.mount("data", "one").mountpoint)

        def use(option: str) -> int:
            """Change the option, and return the number of the first record after that."""
            count = sum(r["op"] == "restart" for r in daemon.records("data"))
            daemon.cli("volume", "update", "data", "-o", option)
            wait_until(
                lambda: sum(r["op"] == "restart" for r in daemon.records("data")) > count, "change"
            )
            (place / "d").mkdir()
            (place / "d").rmdir()
            restarts = [r["seq"] for r in daemon.records("data") if r["op"] == "restart"]
            return int(restarts[-1])

        (place / "d").mkdir()
        (place / "d").rmdir()
        begun = use("chain=true")
        off = use("chain=false")
        on = use("chain=true")
        client.unmount("data", "one")
        told = json.loads(daemon.cli("log", "verify", "--json", "--volume", "data"))
        assert (told["begun_at"], told["off"]) == (begun, [[off, on - 1]])
        assert all(("hash" in r) == (begun <= r["seq"] < off or r["seq"] >= on)
                   for r in daemon.records("data"))  # fmt: skip


def test_files_that_the_log_agent_removes_are_told_from_files_that_are_gone(tmp_path: Path) -> None:
    options = "chain,rotate_size=16K,keep_files=3,compress=zstd"
    with serve(tmp_path, "-o", options) as mount:

        def rotated() -> list[Path]:
            return sorted(tmp_path.glob("access.log-*"))

        end = time.monotonic() + 30
        seen: set[str] = set()
        while len(seen) < 7 and time.monotonic() < end:
            for _ in range(20):
                (mount.mountpoint / "d").mkdir()
                (mount.mountpoint / "d").rmdir()
            seen |= {path.name.removesuffix(".zst") for path in rotated()}
        wait_until(lambda: len(rotated()) <= 3, "retention")
        _verified(mount.log)
    told = _verified(mount.log)
    assert "were removed by fusevol, as its retention options say" in told
    rotated()[0].unlink()
    assert "missing here (older records" in _verified(mount.log, code=1)


# --- what cannot be chained ---


@pytest.mark.parametrize(
    ("options", "log", "why"),
    [
        ("chain,format=ecs", "access.log", "chain requires format=json"),
        ("chain", "none", "chain requires a file"),
        ("chain", "-", "chain requires a file"),
    ],
)
def test_what_has_no_place_for_hashes_is_refused(
    tmp_path: Path, options: str, log: str, why: str
) -> None:
    for name in ("source", "volume"):
        (tmp_path / name).mkdir()
    said = fusevol(
        "mount", tmp_path / "source", tmp_path / "volume", "-o", options, "--log",
        tmp_path / log if "." in log else log, *(["-f"] if log == "-" else []), check=False,
    )  # fmt: skip
    assert said.returncode == 2
    assert why in said.stderr


def test_without_the_package_that_signs_nothing_is_chained(tmp_path: Path) -> None:
    for name in ("source", "volume", "python"):
        (tmp_path / name).mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'cryptography':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    env = os.environ | {"PYTHONPATH": str(tmp_path / "python")}
    log = tmp_path / "access.log"
    said = fusevol("mount", tmp_path / "source", tmp_path / "volume", "-o", "chain", "--log", log,
                   check=False, env=env)  # fmt: skip
    assert said.returncode == 5
    assert "pip install 'fusevol[proof]'" in said.stderr
    assert not log.exists()


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    said = fusevol("log", "key", check=False)
    assert (said.returncode, "no chain key" in said.stderr) == (3, True)
    before = os.umask(0)
    try:
        with serve(tmp_path, "-o", "chain") as mount:
            key = tmp_path / "state" / "chain" / "key"
            kept = list(key.parent.iterdir())
            assert key in kept
            assert {path.stat().st_mode for path in kept} == {0o100600}
            assert key.parent.stat().st_mode == 0o40700
            key.chmod(0o640)
            # A mount in use goes on, without hashes, and that shows.
            _succeed(mount, signal.SIGKILL, worker_of(mount))
            (mount.mountpoint / "d").mkdir()
    finally:
        os.umask(before)
    first = next(r["seq"] for r in mount.records() if "hash" not in r)
    for command in (("mount", tmp_path / "source", tmp_path / "volume", "-o", "chain"),
                    ("log", "verify", mount.log), ("log", "key")):  # fmt: skip
        said = fusevol(*command, check=False)
        assert (said.returncode, "0640" in said.stderr) == (4, True), said.stderr
    key.chmod(0o600)
    assert f"record {first} was changed" in _verified(mount.log, code=1)
