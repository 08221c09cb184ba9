"""A path of the host in a running container, without `fusevol serve`."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.machine import mounts
from tests.engines.runner import Runner, left_over
from tests.engines.shell import Shell
from tests.served import needs_root, runs, wait_until

pytestmark = needs_root


@pytest.fixture
def shell(runner: Runner) -> Iterator[Shell]:
    with Shell(runner.of_rootfs("--rm", "--name", "web", "--", "sh"), runner.env) as shell:
        yield shell


def own_mounts(runner: Runner) -> list[str]:
    directory = runner.directory / "runtime/attached"
    return [one.point for one in mounts() if one.point.startswith(f"{directory}/")]


def mount_points(runner: Runner) -> set[Path]:
    directory = runner.directory / "runtime/attached"
    return set(directory.iterdir()) if directory.exists() else set()


def test_it_is_served_until_it_is_detached(runner: Runner, shell: Shell, source: Path) -> None:
    found = runner.find("web")
    runner.cli("attach", "web", f"{source}:/mnt/one")
    runner.cli("attach", "web", f"{source}/from-host:/etc/two:ro")
    assert shell("cat /mnt/one/from-host /etc/two; echo new >/mnt/one/new").count("made on") == 2
    assert "Read-only" in shell("echo x >>/etc/two", check=False)
    created = [r for r in runner.records("web-mnt-one") if r["op"] == "create"]
    assert [(r["path"], r["container"]) for r in created] == [("/new", found["id"])]
    runner.cli("detach", "web", "/mnt/one")
    assert shell("ls /mnt/one") == ""
    assert len(own_mounts(runner)) == 1
    runner.cli("detach", "web", "/etc/two")
    assert own_mounts(runner) == left_over(runner.directory / "runtime/attached") == []


def test_it_ends_with_the_container(runner: Runner, source: Path) -> None:
    with Shell(runner.of_rootfs("--rm", "--name", "web", "--", "sh"), runner.env):
        runner.cli("attach", "web", f"{source}:/mnt")
        pid = runner.find("web")["pid"]
        (mountpoint,) = own_mounts(runner)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not runs(pid), "end of the container")
        wait_until(lambda: own_mounts(runner) == [], "end of the mount")
    assert runner.cli("attach", "--list").stdout == "no volumes are attached\n"
    assert runner.ps() == []
    wait_until(lambda: runner.ps() == [] and not Path(mountpoint).exists(), "end of its directory")


def test_what_is_in_use_goes_on_if_it_is_detached_lazily(
    runner: Runner, shell: Shell, source: Path
) -> None:
    runner.cli("attach", "web", f"{source}:/mnt")
    shell("mkfifo /tmp/go; (read x </tmp/go; echo late; sync) >>/mnt/log & true")
    assert "in use" in runner.cli("detach", "web", "/mnt", check=False).stderr
    runner.cli("detach", "--lazy", "web", "/mnt")
    runner.cli("attach", "web", f"{source}:/mnt")
    shell("echo >/tmp/go; rm /tmp/go")
    wait_until(lambda: (source / "log").read_text() == "late\n", "what was open goes on")
    runner.cli("detach", "web", "/mnt")


def test_what_cannot_be_attached_leaves_nothing(runner: Runner, shell: Shell, source: Path) -> None:
    # What was in use when its container ended takes a while to end, and its directory is left then.
    before = mount_points(runner)
    for what in (f"{source}:/proc/x", "/none:/mnt", f"{source}:/etc/passwd"):
        done = runner.cli("attach", "web", what, check=False)
        assert (done.returncode != 0, done.stderr.count("\n")) == (True, 1), what
    assert own_mounts(runner) == []
    assert shell("ls /mnt") == ""
    assert mount_points(runner) <= before
