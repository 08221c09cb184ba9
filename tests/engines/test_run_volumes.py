"""Volumes of `fusevol serve` in containers of `fusevol run`: references, parts of volumes."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.daemon import Daemon, plain_daemon
from tests.engines.machine import command
from tests.engines.runner import control_groups
from tests.engines.shell import Shell
from tests.patience import PATIENCE_S
from tests.served import needs_root, runs, wait_until

pytestmark = needs_root


@pytest.fixture(scope="module")
def serving() -> Iterator[Daemon]:
    with plain_daemon("idle_timeout = 0.0\n") as daemon:
        yield daemon


@pytest.fixture
def volume(serving: Daemon, tmp_path: Path) -> Iterator[str]:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/file").write_text("below\n")
    (source / "link").symlink_to("/etc")
    yield serving.create("data", source)
    serving.cli("volume", "rm", "data")


def words(serving: Daemon, rootfs: Path, *more: str) -> list[str]:
    return serving.words("run", "--interactive", "--rootfs", rootfs, *more)


def test_a_reference_lasts_as_long_as_the_container(
    serving: Daemon, rootfs: Path, volume: str
) -> None:
    run = words(serving, rootfs, "--name", "held", "--rm", "-v", f"{volume}:/a",
                "-v", f"{volume}/sub:/b:ro", "--", "sh")  # fmt: skip
    with Shell(run, serving.env) as shell:
        found = serving.container("held")
        assert serving.references(volume) == {found["id"]: 2}
        assert shell("cat /b/file; echo new >/a/sub/new; cat /b/new") == "below\nnew"
        assert "Read-only" in shell("touch /b/x", check=False)
        refused = command(*serving.words("volume", "rm", volume), env=serving.env, check=False)
        assert refused.returncode != 0
    assert serving.references(volume) == {}
    assert {r["container"] for r in serving.records(volume) if r["op"] == "create"} == {found["id"]}


def test_a_sub_path_leads_nowhere_else(serving: Daemon, rootfs: Path, volume: str) -> None:
    for subpath in ("link", "none", "sub/file/x"):
        run = words(serving, rootfs, "--rm", "-v", f"{volume}/{subpath}:/b", "--", "ls", "/b")
        done = command(*run, env=serving.env, check=False)
        assert done.returncode != 0, subpath
        assert done.stderr.count("\n") == 1
    assert serving.references(volume) == {}
    assert serving.cli("ps", "--all", "--json") == "[]"


def test_a_volume_without_a_name_goes_with_the_container(serving: Daemon, rootfs: Path) -> None:
    run = words(serving, rootfs, "--rm", "-v", "/scratch", "--", "sh")
    with Shell(run, serving.env) as shell:
        (name,) = serving.volumes()
        assert len(name) == 64
        assert shell("echo kept >/scratch/x; cat /scratch/x") == "kept"
    assert serving.volumes() == []


@pytest.mark.parametrize("victim", ["caller", "monitor", "both"])
def test_references_end_when_its_processes_are_killed(
    serving: Daemon, rootfs: Path, volume: str, victim: str
) -> None:
    process = subprocess.Popen(
        words(serving, rootfs, "--rm", "-v", f"{volume}:/data", "-v", "/scratch", "--name", victim,
              "--", "sh", "-c", "exec 3>/data/held; echo ready; sleep 600"),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **serving.env},
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    found = serving.container(victim)
    monitor = int(Path(f"/proc/{found['pid']}/stat").read_text().rpartition(") ")[2].split()[1])
    if victim in ("caller", "both"):
        process.kill()
    if victim in ("monitor", "both"):
        os.kill(monitor, signal.SIGKILL)
    process.wait(PATIENCE_S)
    process.stdout.close()
    if victim == "both":
        # Nobody is left who could end the container; the next command of fusevol does.
        serving.cli("ps")
    wait_until(lambda: not runs(found["pid"]) and not runs(monitor), "end of the container")
    wait_until(lambda: serving.references(volume) == {}, "end of the references")
    wait_until(lambda: serving.volumes() == [volume], "end of the volume without a name")
    assert serving.cli("ps", "--all", "--json") == "[]"
    assert control_groups(found["id"]) == []
