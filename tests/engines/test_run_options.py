"""Options of `fusevol run`: terminal, limits, system calls, users, the runtime itself."""

import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Final, Self

import pytest

from fusevol.runtime.seccomp import installed_profile
from tests.engines.machine import command
from tests.engines.podman import RUNTIMES
from tests.engines.runner import Runner, control_groups, left_over, runner_of
from tests.engines.shell import Shell
from tests.patience import PATIENCE_S
from tests.served import needs_root, wait_until

pytestmark = needs_root

FIRST: Final = 700000
"""The host's id of root in a container with users of its own."""

WITH_USERS: Final = """\
printf 'fusevol:%d:131072\\n' {first} >{ids}
mount --bind {ids} /etc/subuid && mount --bind {ids} /etc/subgid && exec "$@"
"""


@pytest.fixture(scope="module", params=RUNTIMES)
def runner(request: pytest.FixtureRequest, rootfs: Path) -> Iterator[Runner]:
    """`fusevol run` with each runtime."""
    with runner_of(rootfs, request.param) as runner:
        yield runner


def test_without_interactive_there_is_nothing_to_read(runner: Runner) -> None:
    words = runner.words("--rm", "--rootfs", runner.rootfs, "--", "wc", "-c")
    assert command(*words, env=runner.env, input=b"x" * 1000).stdout.strip() == "0"


class Typing:
    """A terminal at which somebody runs a command."""

    def __init__(self, words: list[str], env: dict[str, str]) -> None:
        self.said = b""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execvpe(words[0], words, {**os.environ, **env})
        ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def await_(self, text: bytes) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.said:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} in {self.said!r}"
            if select.select([self._fd], [], [], left)[0]:
                self.said += os.read(self._fd, 4096)

    def end(self) -> int:
        """Wait for the command; return its status."""
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.end()
        os.close(self._fd)


def test_a_terminal_is_the_containers_own(runner: Runner) -> None:
    script = (
        "trap 'echo caught; exit 5' INT; read line; echo got-$line-$TERM; busybox stty size; "
        "busybox tty; echo ready; while true; do sleep 1; done"
    )
    with Typing(runner.of_rootfs("--rm", "-t", "--", "sh", "-c", script), runner.env) as there:
        there.type(b"typed\n")
        there.await_(b"ready\r\n")
        assert there.said.replace(b"typed\r\n", b"").split() == [
            b"got-typed-xterm", b"33", b"77", b"/dev/pts/0", b"ready",
        ]  # fmt: skip
        there.type(b"\x03")
        there.await_(b"caught\r")
        assert there.end() == 5


def test_a_terminal_without_input_shows_only(runner: Runner) -> None:
    words = runner.words("--rm", "-t", "--rootfs", runner.rootfs, "--", "sh", "-c",
                         "test -t 1 && seq 5000; exit 3")  # fmt: skip
    done = command(*words, env=runner.env, check=False)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.splitlines() == [str(number) for number in range(1, 5001)]


def test_input_for_a_terminal_comes_from_one(runner: Runner) -> None:
    done = runner.run("-t", "--", "true", check=False)
    assert (done.returncode, "not a terminal" in done.stderr) == (125, True)


def setting(container: str, *names: str) -> set[str]:
    found = [path / name for path in control_groups(container) for name in names]
    return {path.read_text().strip() for path in found if path.exists()}


def test_limits_hold(runner: Runner) -> None:
    words = runner.of_rootfs("--rm", "--name", "limited", "--memory", "64m", "--cpus", "1.5",
                             "--pids-limit", "9", "--", "sh")  # fmt: skip
    with Shell(words, runner.env) as shell:
        container = runner.find("limited")["id"]
        assert setting(container, "memory.max", "memory.limit_in_bytes") == {str(64 << 20)}
        assert setting(container, "pids.max") == {"9"}
        assert setting(container, "cpu.max", "cpu.cfs_quota_us") & {"150000", "150000 100000"}
        assert "can't fork" in shell("for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done", check=False)
    script = "x=$(head -c 200000000 /dev/zero | busybox tr '\\0' x)"
    done = runner.run("--memory", "32m", "--", "sh", "-c", script, check=False)
    assert done.returncode == 128 + 9


def test_a_limit_that_cannot_be_set_is_no_limit_that_is_ignored(runner: Runner) -> None:
    if not Path("/sys/fs/cgroup/pids").exists():
        pytest.skip("needs control groups of version 1, each of which can be taken away")
    hidden = ("unshare", "--mount", "--propagation", "slave", "sh", "-c",
              'umount /sys/fs/cgroup/pids && exec "$@"', "sh")  # fmt: skip
    words = runner.of_rootfs("--rm", "--pids-limit", "9", "--", "echo", "began")
    done = command(*hidden, *words, env=runner.env, check=False)
    assert (done.returncode, done.stdout) == (125, "")
    assert "--pids-limit" in done.stderr or "pids" in done.stderr
    assert runner.ps() == []


@pytest.mark.parametrize(
    "words",
    [("--memory", "1m"), ("--memory", "much"), ("--cpus", "0.001"), ("--cpus", "-1"),
     ("--pids-limit", "-7"), ("--userns", "keep-id"), ("--userns", "auto:size=3"),
     ("--security-opt", "apparmor=x"), ("--security-opt", "seccomp=/none"),
     ("--runtime", "none"), ("--runtime", "/bin/true"), ("--network", "bridge")],
)  # fmt: skip
def test_what_cannot_be_had_is_refused(runner: Runner, words: tuple[str, ...]) -> None:
    done = runner.run(*words, "--", "true", check=False)
    assert done.returncode == 125
    assert done.stderr.startswith(("fusevol: ", "Usage: "))
    assert runner.ps() == []


def test_system_calls_are_filtered(runner: Runner, tmp_path: Path) -> None:
    def filters(*words: str) -> str:
        return runner.run(*words, "--", "grep", "Seccomp:", "/proc/self/status").stdout.split()[1]

    assert filters() == ("0" if installed_profile() is None else "2")
    assert filters("--security-opt", "seccomp=unconfined") == "0"
    profile = tmp_path / "profile.json"
    profile.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], '
        '"action": "SCMP_ACT_ERRNO", "errnoRet": 19}]}'
    )
    words = ("--security-opt", f"seccomp={profile}", "--", "mkdir", "/tmp/new")
    assert "No such device" in runner.run(*words, check=False).stderr


def test_users_can_be_the_containers_own(runner: Runner, source: Path, tmp_path: Path) -> None:
    source.chmod(0o777)
    users = ("unshare", "--mount", "--propagation", "slave", "sh", "-c",
             WITH_USERS.format(first=FIRST, ids=tmp_path / "ids"), "sh")  # fmt: skip
    words = runner.of_rootfs("--name", "own", "--userns", "auto", "-v", f"{source}:/data",
                             "--", "sh")  # fmt: skip
    with Shell([*users, *words], runner.env) as shell:
        pid = runner.find("own")["pid"]
        assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(FIRST), "65536"]
        assert shell("cat /data/from-host; echo new >/data/new; id -u").split()[-1] == "0"
        assert (source / "new").stat().st_uid == FIRST
        # What the host's root has is nobody's.
        assert shell("stat -c %u /data/from-host") == "65534"
        assert shell("chmod 600 /data/from-host", check=False)
        shell("echo x >/etc/new; busybox chown 5:6 /etc/new")
        runner.cli("attach", "own", f"{source}:/mnt/deep/place")
        assert shell("stat -c %u /mnt/deep; cat /mnt/deep/place/new") == "0\nnew"
        other = runner.of_rootfs("--rm", "--userns", "auto:size=1024", "--",
                                 "cat", "/proc/self/uid_map")  # fmt: skip
        said = command(*users, *other, env=runner.env).stdout
        assert said.split() == ["0", str(FIRST + 65536), "1024"]
    found = runner.directory / "state/containers" / runner.find("own")["id"] / "upper"
    assert ((found / "etc/new").stat().st_uid, (found / "etc/new").stat().st_gid) == (5, 6)
    assert (found / "mnt/deep").stat().st_uid == 0
    created = [r for r in runner.records("own-data") if r["op"] == "create"]
    assert [(r["path"], r["uid"]) for r in created] == [("/new", FIRST)]
    runner.cli("rm", "own")


def test_own_users_have_to_be_given(runner: Runner) -> None:
    none = ("unshare", "--mount", "--propagation", "slave", "sh", "-c",
            'mount --bind /dev/null /etc/subuid && exec "$@"', "sh")  # fmt: skip
    done = command(*none, *runner.of_rootfs("--rm", "--userns=auto", "--", "true"),
                   env=runner.env, check=False)  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (125, 1)
    assert "/etc/subuid has no 65536 free ids" in done.stderr
    assert runner.ps() == []


@pytest.fixture
def slow(runner: Runner, tmp_path: Path) -> tuple[list[str], Path]:
    """A container whose runtime goes no further than to say who it is."""
    said, program = tmp_path / "pid", tmp_path / "runtime"
    program.write_text(f'#!/bin/sh\ncase "$*" in *create*) echo $$ >{said}; exec sleep 600; esac\n')
    program.chmod(0o755)
    words = runner.words("--runtime", program, "--name", "slow", "-v", f"{tmp_path}:/data",
                         "--rootfs", runner.rootfs, "--", "true")  # fmt: skip
    return words, said


@pytest.mark.parametrize("victim", ["runtime", "asked", "all"])
def test_nothing_is_left_of_a_container_that_is_not_made(
    runner: Runner, slow: tuple[list[str], Path], victim: str
) -> None:
    words, said = slow
    process = subprocess.Popen(
        words, env={**os.environ, **runner.env}, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: said.exists() and said.read_text().endswith("\n"), "call of the runtime")
    runtime = int(said.read_text())
    if victim == "asked":
        process.terminate()
    else:
        monitor = int(Path(f"/proc/{runtime}/stat").read_text().rpartition(") ")[2].split()[1])
        for pid in (runtime,) if victim == "runtime" else (process.pid, monitor):
            os.kill(pid, signal.SIGKILL)
    _, complaint = process.communicate(timeout=PATIENCE_S)
    if victim == "runtime":
        assert process.returncode == 125
        assert "was killed by signal 9" in complaint
    elif victim == "asked":
        assert process.returncode == 128 + 15
    wait_until(lambda: not Path(f"/proc/{runtime}").exists(), "end of the runtime")
    left = [one["status"] for one in runner.ps()]
    assert left == (["exited"] if victim == "all" else [])
    if left:
        runner.cli("rm", "slow")
    wait_until(lambda: left_over(runner.directory) == [], "end of the servers")
