"""`fusevol unmount` of mounts that are in use, or whose worker is stopped; it never hangs."""

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner

from fusevol.cli.unmount import unmount
from fusevol.linux import mounts
from fusevol.mounts import registry
from fusevol.mounts.connection import Connection
from tests.cli.nobody import AS_NOBODY, NOBODY, Nobody, ordinary_user
from tests.engines.daemon import Daemon, plain_daemon
from tests.patience import PATIENCE_S, PROMPT_S
from tests.served import (
    FUSEVOL,
    Served,
    assert_no_gap_in_numbers,
    fusevol,
    is_mounted,
    needs_root,
    runs,
    serve,
    wait_until,
)

pytestmark = needs_root

_OPEN: Final = "file = open(sys.argv[1])"
_DIRECTORY: Final = "fd = os.open(os.path.dirname(sys.argv[1]), os.O_RDONLY)"
_CWD: Final = "os.chdir(os.path.dirname(sys.argv[1]))"
_ROOT: Final = "os.chroot(os.path.dirname(sys.argv[1]))"
_MAPPING: Final = (
    "import mmap; fd = os.open(sys.argv[1], os.O_RDONLY); "
    "memory = mmap.mmap(fd, 4096, prot=mmap.PROT_READ); os.close(fd)"
)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A mount with a file in it."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(b"content" * 1000)
    with serve(tmp_path) as mount:
        yield mount


@contextmanager
def using(what: str, path: Path) -> Iterator[int]:
    """Another process that uses a path in the way of some Python code; yields its id."""
    code = f"import os, sys; {what}; print('uses', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code, path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/",
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"uses\n"
            yield process.pid
        finally:
            process.kill()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that is stopped inside the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if runs(pid):
            os.kill(pid, signal.SIGCONT)


def refused(*arguments: str | Path) -> str:
    """Run a command that has to fail with one line; return that line."""
    done = fusevol(*arguments, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


# --- in use ---


@pytest.mark.parametrize(
    "what", [_OPEN, _DIRECTORY, _CWD, _ROOT, _MAPPING],
    ids=["open", "directory", "cwd", "root", "mapping"],
)  # fmt: skip
def test_who_uses_it_is_told(served: Served, what: str) -> None:
    with using(what, served.mountpoint / "file") as user:
        said = refused("unmount", served.mountpoint)
        comm = Path(f"/proc/{user}/comm").read_text().strip()
        assert f"{served.mountpoint} is in use by {comm} ({user}); " in said
        assert "--lazy" in said
        assert "--force" in said
        assert is_mounted(served.mountpoint)


def test_of_many_users_some_are_told(served: Served) -> None:
    sleeps = [
        subprocess.Popen(["sleep", "60"], cwd=served.mountpoint, start_new_session=True)
        for _ in range(8)
    ]
    try:
        said = refused("unmount", served.mountpoint)
    finally:
        for sleep in sleeps:
            sleep.kill()
            sleep.wait()
    assert said.count("sleep (") == 5
    assert "and 3 more" in said


def test_a_mount_on_it_is_told(served: Served) -> None:
    (served.mountpoint / "inner").mkdir()
    mounts.mount("tmpfs", str(served.mountpoint / "inner"), "tmpfs", 0, "")
    try:
        said = refused("unmount", served.mountpoint)
        assert f"in use by the mount at {served.mountpoint}/inner; " in said
    finally:
        mounts.umount(str(served.mountpoint / "inner"))


def test_what_does_not_use_it_is_not_told(served: Served, tmp_path: Path) -> None:
    (tmp_path / "volume-2").mkdir()
    (tmp_path / "volume-2/file").write_bytes(b"content" * 1000)
    with using(_OPEN, served.mountpoint / "file"), using(_CWD, tmp_path / "volume-2/file") as other:
        assert f"({other})" not in refused("unmount", served.mountpoint)


def test_a_name_cannot_write_to_the_terminal(served: Served) -> None:
    naming = "open('/proc/self/comm', 'w').write('a\\x1b[2J\\nb'); "
    with using(naming + _OPEN, served.mountpoint / "file") as user:
        assert f"a\\x1b[2J\\nb ({user})" in refused("unmount", served.mountpoint)


def test_it_goes_on_after_a_refusal(served: Served) -> None:
    with (served.mountpoint / "open").open("w") as file:
        refused("unmount", served.mountpoint)
        file.write("still works")
    assert (served.source / "open").read_text() == "still works"


# --- lazy ---


def test_detaching_what_is_in_use(served: Served) -> None:
    daemon = served.status()["pid"]
    file = (served.mountpoint / "open").open("w")
    try:
        fusevol("unmount", "--lazy", served.mountpoint)
        assert not is_mounted(served.mountpoint)
        assert runs(daemon)
        file.write("still works")
    finally:
        file.close()
    wait_until(lambda: not runs(daemon), "end of the daemon")
    assert (served.source / "open").read_text() == "still works"
    assert (served.records()[-1]["op"], served.records()[-1]["result"]) == ("unmount", "ok")


# --- by force ---


def test_open_files_fail_after_force(served: Served) -> None:
    status = served.status()
    file = (served.mountpoint / "file").open("r+b", buffering=0)
    memory = mmap.mmap(file.fileno(), 4096)
    fusevol("unmount", "--force", served.mountpoint)
    assert not is_mounted(served.mountpoint)
    assert not runs(status["pid"])
    assert not runs(status["worker"])
    assert registry.get(str(served.mountpoint)) is None
    calls = (lambda: file.read(1), lambda: file.write(b"x"), lambda: os.fstat(file.fileno()))
    for call in calls:
        with pytest.raises(OSError, match=r"not connected|connection abort"):
            call()
    memory.close()
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        file.close()
    # It ended by itself: nobody had to kill it.
    assert (served.records()[-1]["op"], served.records()[-1]["result"]) == ("unmount", "ok")


def test_the_place_can_be_served_again_after_force(served: Served) -> None:
    with using(_CWD, served.mountpoint / "file"):
        fusevol("unmount", "--force", served.mountpoint)
        fusevol("mount", served.source, served.mountpoint, "--log", served.log)
        assert (served.mountpoint / "file").read_bytes() == b"content" * 1000


# --- a worker that was stopped ---


def test_nothing_waits_for_a_stopped_worker_that_is_in_use(served: Served) -> None:
    with (
        using(_OPEN, served.mountpoint / "file") as user,
        stopped(served.status()["worker"]),
    ):
        began = time.monotonic()
        assert f"({user})" in refused("unmount", served.mountpoint)
        assert time.monotonic() - began < PROMPT_S
        fusevol("unmount", "--lazy", served.mountpoint)
        assert time.monotonic() - began < PROMPT_S
        assert not is_mounted(served.mountpoint)


def test_a_stopped_worker_that_nobody_uses_is_told(served: Served) -> None:
    worker = served.status()["worker"]
    with stopped(worker):
        said = refused("unmount", served.mountpoint)
        assert (
            f"{served.mountpoint} is unmounted, but its worker, process {worker}, did not" in said
        )
        assert not is_mounted(served.mountpoint)
    wait_until(lambda: not runs(worker), "end of the worker")
    assert (served.records()[-1]["op"], served.records()[-1]["result"]) == ("unmount", "ok")


def test_force_ends_a_stopped_worker_and_who_waits_for_it(served: Served) -> None:
    status = served.status()
    reading = "file = open(sys.argv[1], 'rb', buffering=0); print('uses', flush=True); input(); "
    reading += "os.pread(file.fileno(), 1, 0)"
    with subprocess.Popen(
        [sys.executable, "-I", "-c", f"import os, sys; {reading}", served.mountpoint / "file"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/",
    ) as reader:  # fmt: skip
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"uses\n"
        with stopped(status["worker"]):
            assert reader.stdin is not None
            reader.stdin.write(b"\n")
            reader.stdin.flush()
            with pytest.raises(subprocess.TimeoutExpired):
                reader.wait(0.3)
            began = time.monotonic()
            fusevol("unmount", "--force", served.mountpoint)
            assert time.monotonic() - began < PROMPT_S
            assert b"not connected" in (said := reader.communicate(timeout=PATIENCE_S)[1]) or (
                b"abort" in said
            )
        assert not runs(status["worker"])
        assert not runs(status["pid"])
    assert not is_mounted(served.mountpoint)
    assert served.records()[-1]["op"] == "unmount"


# --- bound elsewhere ---


def test_a_bind_in_another_namespace_goes_on(served: Served) -> None:
    """As in a container: it is not in the way, and is not waited for."""
    worker = served.status()["worker"]
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'echo; read x; cat "$0"',
         served.mountpoint / "file"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/",
    ) as container:  # fmt: skip
        assert container.stdout is not None
        assert container.stdout.readline() == b"\n"
        began = time.monotonic()
        done = fusevol("unmount", served.mountpoint)
        assert time.monotonic() - began < PROMPT_S
        assert "is unmounted, but the volume is still mounted for process " in done.stderr
        assert str(container.pid) in done.stderr
        assert not is_mounted(served.mountpoint)
        assert container.communicate(b"\n", timeout=PATIENCE_S)[0] == b"content" * 1000
    wait_until(lambda: not runs(worker), "end of the worker")


def test_a_copy_that_goes_at_once_is_waited_for(served: Served) -> None:
    """As a starting container has one, until it changes its root."""
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; read x"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/",
    ) as container:  # fmt: skip
        assert container.stdout is not None
        assert container.stdin is not None
        assert container.stdout.readline() == b"\n"
        with subprocess.Popen(
            [FUSEVOL, "unmount", served.mountpoint], stderr=subprocess.PIPE, text=True
        ) as unmount:
            wait_until(lambda: not is_mounted(served.mountpoint), "unmount")
            container.stdin.close()
            assert unmount.communicate(timeout=PATIENCE_S)[1] == ""
        assert unmount.returncode == 0
    assert served.records()[-1]["op"] == "unmount"


def test_a_bind_on_the_host_is_named(served: Served, tmp_path: Path) -> None:
    bind = tmp_path / "bind"
    bind.mkdir()
    subprocess.run(["mount", "--bind", served.mountpoint, bind], check=True)
    try:
        done = fusevol("unmount", served.mountpoint)
        assert f"is still mounted at {bind}; it is served" in done.stderr
    finally:
        subprocess.run(["umount", bind], check=True)


# --- volumes of `fusevol serve` ---


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with one volume, "data"."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("content")
    with plain_daemon("idle_timeout = 3600.0\n") as daemon:
        daemon.create("data", tmp_path / "source")
        yield daemon
        daemon.cli("volume", "release", "data", "--force")


def test_a_volume_in_use_is_not_taken_away(daemon: Daemon) -> None:
    with daemon.client() as client:
        worker = client.mount("data", "somebody").worker
    for option in ((), ("--lazy",)):
        said = daemon.refused("unmount", *option, daemon.mount_point("data"))
        assert "is volume data of `fusevol serve`, in use by somebody; " in said
        assert "fusevol volume release data" in said
    assert daemon.inspect("data")["worker"] == worker
    assert (daemon.mount_point("data") / "file").read_text() == "content"


def test_a_volume_that_nobody_uses_can_be_unmounted(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.mount("data", "somebody")
        client.unmount("data", "somebody")
        began = time.monotonic()
        daemon.cli("unmount", daemon.mount_point("data"))
        assert time.monotonic() - began < PROMPT_S
        assert daemon.records("data")[-1]["op"] == "unmount"
        wait_until(lambda: daemon.inspect("data")["state"] == "idle", "notice of the end")
        client.mount("data", "somebody")
        assert (daemon.mount_point("data") / "file").read_text() == "content"


def test_a_volume_can_be_ended_by_force(daemon: Daemon) -> None:
    place = daemon.mount_point("data")
    with daemon.client() as client:
        worker = client.mount("data", "somebody").worker
        with using(_OPEN, place / "file"), stopped(worker):
            began = time.monotonic()
            daemon.cli("unmount", "--force", place)
            assert time.monotonic() - began < PROMPT_S
        assert not runs(worker)
        assert not is_mounted(place)
        # The next container gets it.
        assert client.mount("data", "another").worker != worker
        assert (place / "file").read_text() == "content"


# --- without root ---


@pytest.fixture
def nobody(tmp_path: Path) -> Iterator[Nobody]:
    """An ordinary user, who has `mine`/source mounted at `volume`."""
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    mine, volume = tmp_path / "mine", tmp_path / "volume"
    volume.mkdir()
    with ordinary_user(tmp_path) as user:
        (mine / "source").mkdir()
        os.chown(mine / "source", NOBODY, NOBODY)
        done = user("mount", mine / "source", volume, "--log", mine / "log")
        assert done.returncode == 0, done.stderr
        yield user
        if user.mounts(tmp_path):
            user.run(*AS_NOBODY, "fusermount3", "-u", "-z", volume)


@contextmanager
def sleeping(user: Nobody, directory: Path) -> Iterator[int]:
    """A process of an ordinary user that stands in a directory; yields its id."""
    pid = directory.parent / "mine/pid"
    shell = f'cd "{directory}"; sleep 60 </dev/null >/dev/null 2>&1 & echo $! > "{pid}"'
    done = user.run(*AS_NOBODY, "sh", "-c", shell)
    assert done.returncode == 0, done.stderr
    sleep = int(pid.read_text())
    try:
        yield sleep
    finally:
        os.kill(sleep, signal.SIGKILL)


def test_without_root_who_uses_it_is_told(nobody: Nobody, tmp_path: Path) -> None:
    with sleeping(nobody, tmp_path / "volume") as sleep:
        done = nobody("unmount", tmp_path / "volume")
        assert done.returncode == 1
        assert f"in use by sleep ({sleep}); " in done.stderr


def test_without_root_force_takes_fusectl(nobody: Nobody, tmp_path: Path) -> None:
    volume, log = tmp_path / "volume", tmp_path / "mine/log"
    with sleeping(nobody, volume):
        done = nobody("unmount", "--force", volume)
        if not Path("/sys/fs/fuse/connections").is_mount():
            assert done.returncode == 4, done.stderr
            assert "requires /sys/fs/fuse/connections" in done.stderr
            assert nobody.mounts(tmp_path) != []
            nobody.run("mount", "-t", "fusectl", "fusectl", "/sys/fs/fuse/connections")
            done = nobody("unmount", "--force", volume)
        assert (done.returncode, done.stderr) == (0, "")
        assert nobody.mounts(tmp_path) == []
    assert Served(tmp_path, volume, log).records()[-1]["op"] == "unmount"


def test_what_was_just_unmounted_can_be_mounted_at_once(served: Served) -> None:
    """umount(8) returns before the log is let go of, as `umount X && mount X` finds."""
    status = served.status()
    for pid in (status["pid"], status["worker"]):
        os.kill(pid, signal.SIGSTOP)
    mounts.umount(str(served.mountpoint))
    words = ("mount", served.source, served.mountpoint, "--log", served.log)
    with subprocess.Popen([FUSEVOL, *words], stderr=subprocess.PIPE) as again:
        wait_until(lambda: waits_in_select(again.pid), "mount that waits for the former one")
        for pid in (status["worker"], status["pid"]):
            os.kill(pid, signal.SIGCONT)
        assert again.stderr is not None
        assert (again.wait(), again.stderr.read()) == (0, b"")
    assert_no_gap_in_numbers(served.records())
    assert [record["op"] for record in served.records()].count("mount") == 2


def waits_in_select(pid: int) -> bool:
    """Tell whether a process waits in select(2) (proc_pid_syscall(5))."""
    number = Path(f"/proc/{pid}/syscall").read_bytes().split()[0]
    return number in (b"23", b"270", b"72")


def test_forced_by_two_at_once_both_see_it_end(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Connection.of

    def late(device: int, is_still: Callable[[], bool]) -> Connection:
        fusevol("unmount", "--force", served.mountpoint)
        return first(device, is_still)

    monkeypatch.setattr(Connection, "of", late)
    done = CliRunner().invoke(unmount, ["--force", str(served.mountpoint)])
    assert done.exit_code == 0, done.output
    assert not is_mounted(served.mountpoint)
