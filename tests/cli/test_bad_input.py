"""What cannot work is refused in one clear line, with the right exit code, and leaves no trace."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusevol.linux import mounts
from fusevol.mounts import registry
from tests.cli.nobody import AS_NOBODY, NOBODY, Nobody, ordinary_user
from tests.patience import PATIENCE_S
from tests.served import (
    FUSEVOL,
    Served,
    assert_no_gap_in_numbers,
    fusevol,
    is_mounted,
    kill_for_good,
    kill_mount,
    name_of,
    needs_root,
    runs,
    serve,
    wait_until,
)

pytestmark = needs_root

FAILED, USAGE, NOT_FOUND, NOT_PERMITTED, UNSUPPORTED = 1, 2, 3, 4, 5


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory, reachable for everybody, with an empty source and mount point."""
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    for name in ("source", "volume"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "kept").write_text("kept")
    return tmp_path


@pytest.fixture
def served(place: Path) -> Iterator[Served]:
    with serve(place) as mount:
        yield mount


@pytest.fixture
def nobody(place: Path) -> Iterator[Nobody]:
    with ordinary_user(place) as user:
        yield user


def _mount_table() -> bytes:
    return Path("/proc/self/mountinfo").read_bytes()


@contextmanager
def _nothing_happens(place: Path) -> Iterator[None]:
    """Check that no mount of this test comes or goes, and that the source keeps its content."""
    about = os.fsencode(place)
    before = [line for line in _mount_table().splitlines() if about in line]
    yield
    assert [line for line in _mount_table().splitlines() if about in line] == before
    assert (place / "source" / "kept").read_text() == "kept"


def _refused(done: "subprocess.CompletedProcess[str]", code: int, *words: str | Path) -> None:
    """Check that a command failed with one line that says all of `words`."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("fusevol: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert str(word) in done.stderr


def _mount(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return fusevol("mount", *arguments, check=False)


# --- the source ---


def test_a_missing_source(place: Path) -> None:
    missing = place / "missing"
    with _nothing_happens(place):
        done = _mount(missing, place / "volume", "--log", place / "log")
        _refused(done, NOT_FOUND, f"source {missing} does not exist", "create it")
    assert not (place / "log").exists()


def test_a_missing_source_with_a_name_of_many_lines(place: Path) -> None:
    with _nothing_happens(place):
        done = _mount(place / "a\nb\x1b[31m", place / "volume", "--log", "none")
        _refused(done, NOT_FOUND, "a\\nb\\x1b[31m")


@pytest.mark.parametrize("kind", ["socket", "fifo", "device"])
def test_a_source_that_is_no_directory_and_no_file(place: Path, kind: str) -> None:
    source = place / "thing"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            # Its address may be shorter than the path of a test's directory.
            here = os.open(place, os.O_PATH)
            listener.bind(f"/proc/self/fd/{here}/thing")
            os.close(here)
    elif kind == "fifo":
        os.mkfifo(source)
    else:
        os.mknod(source, 0o020600, os.makedev(1, 3))
    with _nothing_happens(place):
        done = _mount(source, place / "volume", "--log", "none")
        _refused(done, USAGE, source, "neither a directory nor a regular file")


def test_a_source_that_the_user_may_not_read(place: Path, nobody: Nobody) -> None:
    (place / "source").chmod(0o700)
    with _nothing_happens(place):
        done = nobody("mount", place / "source", place / "volume", "--log", "none")
        _refused(done, NOT_PERMITTED, place / "source", "not readable by you")


# --- the mount point ---


def test_a_missing_mount_point(place: Path) -> None:
    with _nothing_happens(place):
        done = _mount(place / "source", place / "missing", "--log", "none")
        _refused(done, NOT_FOUND, f"mount point {place}/missing does not exist", "create it")


def test_a_directory_on_a_file(place: Path) -> None:
    (place / "file").touch()
    with _nothing_happens(place):
        done = _mount(place / "source", place / "file", "--log", "none")
        _refused(done, USAGE, "is a directory", place / "file", "is a file", "same kind")


def test_a_file_on_a_directory(place: Path) -> None:
    (place / "file").touch()
    with _nothing_happens(place):
        done = _mount(place / "file", place / "volume", "--log", "none")
        _refused(done, USAGE, "is a file", place / "volume", "is a directory", "same kind")


def test_a_mount_point_below_the_source(place: Path) -> None:
    (place / "source" / "below").mkdir()
    (place / "link").symlink_to("source/below")
    for mountpoint in (place / "source" / "below", place / "link"):
        with _nothing_happens(place):
            done = _mount(place / "source", mountpoint, "--log", "none")
            _refused(done, USAGE, place / "source" / "below", "below the source", "choose")


def test_a_mount_point_that_contains_the_source(place: Path) -> None:
    with _nothing_happens(place):
        done = _mount(place / "source", place, "--log", "none")
        _refused(done, USAGE, place, "contains the source", "choose")


def test_a_name_that_only_begins_like_the_source_is_not_below_it(place: Path) -> None:
    (place / "source2").mkdir()
    with _nothing_happens(place):
        fusevol("mount", place / "source", place / "source2", "--log", "none")
        fusevol("unmount", place / "source2")


def test_a_mount_point_that_is_served_already(served: Served, place: Path) -> None:
    (place / "other").mkdir()
    with _nothing_happens(place):
        done = _mount(place / "other", served.mountpoint, "--log", "none")
        _refused(done, USAGE, f"{served.mountpoint} is already a fusevol mount", served.source)
    assert (served.mountpoint / "kept").read_text() == "kept"


def test_a_mount_point_of_somebody_else(place: Path, nobody: Nobody) -> None:
    os.chown(place / "volume", 0, 0)
    with _nothing_happens(place):
        done = nobody("mount", place / "source", place / "volume", "--log", "none")
        _refused(done, FAILED, place / "volume", "fusermount3")


# --- the log ---


def test_a_log_below_source_or_mount_point(place: Path) -> None:
    (place / "link").symlink_to("source")
    for log in (place / "source" / "log", place / "volume" / "log", place / "link" / "log"):
        with _nothing_happens(place):
            done = _mount(place / "source", place / "volume", "--log", log)
            _refused(done, USAGE, f"access log {log} is below the", "choose")
        assert not log.exists()


def test_a_log_on_another_mount_of_fusevol(served: Served, place: Path) -> None:
    for name in ("other", "other volume"):
        (place / name).mkdir()
    with _nothing_happens(place):
        done = _mount(place / "other", place / "other volume", "--log", served.mountpoint / "log")
        _refused(done, USAGE, "is on the fusevol mount", served.mountpoint)
    assert not (served.source / "log").exists()


def test_a_log_in_a_missing_directory(place: Path) -> None:
    with _nothing_happens(place):
        done = _mount(place / "source", place / "volume", "--log", place / "none" / "log")
        _refused(done, NOT_FOUND, place / "none" / "log", "directory does not exist", "create it")


def test_a_log_that_is_a_directory(place: Path) -> None:
    (place / "logs").mkdir()
    with _nothing_happens(place):
        done = _mount(place / "source", place / "volume", "--log", place / "logs")
        _refused(done, USAGE, place / "logs", "is a directory", "use a file")


def test_a_log_that_the_user_may_not_write(place: Path, nobody: Nobody) -> None:
    with _nothing_happens(place):
        done = nobody("mount", place / "source", place / "volume", "--log", place / "log")
        _refused(done, NOT_PERMITTED, place / "log", "permission denied", "choose")


def test_a_log_on_a_read_only_file_system(place: Path) -> None:
    (place / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", place / "disk"], check=True)
    try:
        with _nothing_happens(place):
            done = _mount(place / "source", place / "volume", "--log", place / "disk" / "log")
            _refused(done, FAILED, place / "disk" / "log", "Read-only file system")
    finally:
        subprocess.run(["umount", place / "disk"], check=True)


def test_a_log_on_stdout_in_background(place: Path) -> None:
    with _nothing_happens(place):
        done = _mount(place / "source", place / "volume", "--log", "-")
        _refused(done, USAGE, "--log -", "-f")


# --- options ---


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-o", "rw,colour=red"], USAGE, ["unknown mount option 'colour=red'", "record,"]),
        (["-o", "compress"], USAGE, ["mount option compress needs a value: compress=none|zstd"]),
        (["-o", "record"], USAGE, ["mount option record needs a value"]),
        (
            ["-o", "recordd=all"],
            USAGE,
            ["option 'recordd=all'; did you mean record?"],
        ),
        (["-o", "ro=1"], USAGE, ["mount option ro takes no value"]),
        (["-o", "rotate_size=12x"], USAGE, ["invalid rotate_size=12x: expected a size such as"]),
        (["-o", "log="], USAGE, ["option log needs a value"]),
        (
            ["-o", "on_log_failure=panic"],
            USAGE,
            ["on_log_failure=panic", "continue or deny"],
        ),
        (["-o", "record=some"], USAGE, ["invalid record=some: expected all or data"]),
        (["--record", "some"], USAGE, ["invalid record=some: expected all or data"]),
        (["--record", "open"], UNSUPPORTED, ["level open is not available", "all or data"]),
        (["-o", "record=open"], UNSUPPORTED, ["level open is not available", "all or data"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_option_that_is_not_known(
    place: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    with _nothing_happens(place):
        done = _mount(place / "source", place / "volume", "--log", place / "log", *arguments)
        _refused(done, code, *words)
    assert not (place / "log").exists()


@pytest.mark.parametrize(
    "arguments",
    [["mount"], ["mount", "/tmp"], ["mount", "--colour", "a", "b"], ["moutn"], ["unmount"]],
    ids=" ".join,
)  # fmt: skip
def test_a_command_line_that_makes_no_sense(arguments: list[str]) -> None:
    done = fusevol(*arguments, check=False)
    assert done.returncode == USAGE
    assert "Traceback" not in done.stderr
    assert "Error:" in done.stderr


# --- the host ---


def _in_namespace(script: str, place: Path) -> "subprocess.CompletedProcess[str]":
    """Run a shell script as root in a mount namespace of its own."""
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script], cwd=place,
        capture_output=True, text=True, timeout=PATIENCE_S, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_without_the_device(place: Path) -> None:
    hide = (
        "mount -t tmpfs tmpfs /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && "
        "chmod 666 /dev/null; "
    )
    with _nothing_happens(place):
        done = _in_namespace(f"{hide} exec {FUSEVOL} mount source volume --log log", place)
        _refused(done, UNSUPPORTED, "/dev/fuse does not exist", "modprobe fuse")


def test_with_something_else_for_a_device(place: Path) -> None:
    hide = "mount --bind /dev/null /dev/fuse; "
    with _nothing_happens(place):
        done = _in_namespace(f"{hide} exec {FUSEVOL} mount source volume --log log", place)
        _refused(done, FAILED, f"cannot mount on {place}/volume")


def test_without_root_and_without_fusermount3(place: Path, nobody: Nobody) -> None:
    with _nothing_happens(place):
        done = nobody("mount", place / "source", place / "volume", "--log", "none", path="/none")
        _refused(done, UNSUPPORTED, "fusermount3", "install")


def test_without_root_others_cannot_be_let_in(place: Path, nobody: Nobody) -> None:
    if "\nuser_allow_other" in Path("/etc/fuse.conf").read_text():
        pytest.skip("this host lets users share their mounts")
    with _nothing_happens(place):
        options = ("--log", "none", "-o", "allow_other")
        done = nobody("mount", place / "source", place / "volume", *options)
        _refused(done, FAILED, place / "volume", "allow_other")


def test_without_root_it_works_for_the_user(place: Path, nobody: Nobody) -> None:
    mine, volume = place / "mine", place / "volume"
    (mine / "source").mkdir()
    os.chown(mine / "source", NOBODY, NOBODY)
    done = nobody("mount", mine / "source", volume, "--log", mine / "log")
    assert done.returncode == 0, done.stderr
    try:
        script = (
            "set -e; cd $1; echo x > a; cat a; mkdir d; mv a d/b; ln d/b c; ln -s c s; "
            "chmod 600 c; rm d/b; rmdir d; ls"
        )
        said = nobody.run(*AS_NOBODY, "sh", "-c", script, "sh", volume)
        assert said.stdout.split() == ["x", "c", "s"], said.stderr
        # Root is another user, too.
        assert "Permission denied" in nobody.run("stat", volume).stderr
        assert str(volume) in nobody("status").stdout
    finally:
        ended = nobody.run(*AS_NOBODY, "fusermount3", "-u", volume)
    assert ended.returncode == 0, ended.stderr
    assert nobody.mounts(volume.parent) == []
    assert (mine / "source" / "c").read_text() == "x\n"
    assert (mine / "source" / "c").stat().st_uid == NOBODY
    log = Served(mine / "source", volume, mine / "log")
    wait_until(lambda: log.records()[-1]["op"] == "unmount", "unmount record")
    assert_no_gap_in_numbers(log.records())
    assert {"create", "write", "rename", "mkdir", "unlink"} <= {r["op"] for r in log.records()}
    assert log.log.stat().st_uid == NOBODY
    assert nobody("status").stdout == "no mounts are served\n"


def test_without_root_fusevol_ends_its_own_mount(place: Path, nobody: Nobody) -> None:
    mine = place / "mine"
    (mine / "source").mkdir()
    os.chown(mine / "source", NOBODY, NOBODY)
    done = nobody("mount", mine / "source", place / "volume", "--log", mine / "log")
    assert done.returncode == 0, done.stderr
    done = nobody("unmount", place / "volume")
    assert done.returncode == 0, done.stderr
    log = Served(mine / "source", place / "volume", mine / "log")
    assert log.records()[-1]["op"] == "unmount"


@pytest.mark.parametrize("option", [(), ("--lazy",), ("--force",)], ids=str)
def test_without_root_nobody_ends_the_mount_of_another(
    served: Served, nobody: Nobody, option: tuple[str, ...]
) -> None:
    # The namespace was made after the mount and has it, too.
    nobody.run("mount", "-t", "fusectl", "fusectl", "/sys/fs/fuse/connections")
    done = nobody("unmount", *option, served.mountpoint)
    assert done.returncode in (FAILED, NOT_PERMITTED)
    _refused(done, done.returncode, served.mountpoint)
    assert nobody.mounts(served.mountpoint.parent) != []
    assert (served.mountpoint / "kept").read_text() == "kept"
    assert nobody.run("umount", served.mountpoint).returncode == 0
    assert (served.mountpoint / "kept").read_text() == "kept"


# --- unmounting ---


def test_unmounting_what_is_not_mounted(place: Path) -> None:
    done = fusevol("unmount", place / "volume", check=False)
    _refused(done, NOT_FOUND, f"nothing is mounted at {place}/volume")
    done = fusevol("unmount", place / "missing", check=False)
    _refused(done, NOT_FOUND, f"nothing is mounted at {place}/missing")


def test_unmounting_what_belongs_to_another_program(place: Path) -> None:
    volume = place / "volume"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", volume], check=True)
    try:
        with _nothing_happens(place):
            done = fusevol("unmount", volume, check=False)
            _refused(done, NOT_FOUND, volume, "type tmpfs", "use umount")
    finally:
        subprocess.run(["umount", volume], check=True)


@pytest.mark.parametrize("command", [["umount"], ["fusermount3", "-u"]], ids=" ".join)
def test_other_ways_to_unmount(place: Path, command: list[str]) -> None:
    with serve(place) as mount:
        status = mount.status()
        subprocess.run([*command, mount.mountpoint], check=True, timeout=PATIENCE_S)
        wait_until(lambda: not runs(status["pid"]) and not runs(status["worker"]), "end")
        assert registry.get(str(mount.mountpoint)) is None
        # A daemon that had nothing to say leaves no file of messages.
        wait_until(lambda: not os.path.exists(registry.messages_path(str(mount.mountpoint))), "end")
    assert (mount.records()[-1]["op"], mount.records()[-1]["result"]) == ("unmount", "ok")
    assert_no_gap_in_numbers(mount.records())


# --- ends of processes ---


def _messages(mount: Served) -> str:
    return Path(registry.messages_path(str(mount.mountpoint))).read_text()


def test_a_mount_left_by_a_crash(place: Path) -> None:
    with serve(place) as mount:
        status = mount.status()
        # The daemon first: it would clean up after the worker.
        os.kill(status["pid"], signal.SIGKILL)
        wait_until(lambda: not runs(status["pid"]), "end of the daemon")
        os.kill(status["worker"], signal.SIGKILL)
        wait_until(lambda: not runs(status["worker"]), "end of the worker")
        with pytest.raises(OSError, match="not connected"):
            mount.mountpoint.stat()

        with _nothing_happens(place):
            done = _mount(mount.source, mount.mountpoint, "--log", mount.log)
            command = f"fusevol unmount {mount.mountpoint}"
            _refused(done, FAILED, "dead fusevol mount", "crash", command)

        fusevol("unmount", mount.mountpoint)
        assert not is_mounted(mount.mountpoint)
        assert registry.get(str(mount.mountpoint)) is None

        # And the volume can be served again, its log goes on.
        fusevol("mount", mount.source, mount.mountpoint, "--log", mount.log)
        assert (mount.mountpoint / "kept").read_text() == "kept"
    assert_no_gap_in_numbers(mount.records())


def test_a_dead_mount_of_another_program_is_not_touched(place: Path) -> None:
    volume = place / "volume"
    device = os.open("/dev/fuse", os.O_RDWR)
    data = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    mounts.mount("other", str(volume), "fuse.other", 0, data)
    os.close(device)
    try:
        with _nothing_happens(place):
            done = fusevol("unmount", volume, check=False)
            _refused(done, NOT_FOUND, volume, "fuse.other", "use umount")
            done = _mount(place / "source", volume, "--log", "none")
            _refused(done, FAILED, volume, "dead mount of another program", f"umount -l {volume}")
    finally:
        mounts.umount(str(volume), mounts.MNT_DETACH)


def test_a_mount_whose_daemon_died_is_still_served_and_ends_cleanly(place: Path) -> None:
    with serve(place) as mount:
        status = mount.status()
        os.kill(status["pid"], signal.SIGKILL)
        wait_until(lambda: not runs(status["pid"]), "end of the daemon")
        assert (mount.mountpoint / "kept").read_text() == "kept"
        fusevol("unmount", mount.mountpoint)
        wait_until(lambda: not runs(status["worker"]), "end of the worker")
    assert mount.records()[-1]["op"] == "unmount"
    assert_no_gap_in_numbers(mount.records())


def test_a_mount_whose_keeper_and_worker_are_killed_is_dead_and_can_be_removed(place: Path) -> None:
    with serve(place) as mount:
        status = mount.status()
        file = (mount.mountpoint / "open").open("wb", buffering=0)
        kill_mount(status["pid"], status["worker"])
        with pytest.raises(OSError, match=r"not connected|connection abort"):
            os.fstat(file.fileno())
        with pytest.raises(OSError, match=r"not connected|connection abort"):
            file.close()
        fusevol("unmount", mount.mountpoint)
        assert not is_mounted(mount.mountpoint)
        assert registry.get(str(mount.mountpoint)) is None
    assert_no_gap_in_numbers(mount.records())


def test_the_foreground_says_that_its_mount_was_killed(place: Path) -> None:
    volume = place / "volume"
    with subprocess.Popen(
        [FUSEVOL, "mount", "-f", place / "source", volume, "--log", place / "log"],
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            wait_until(lambda: registry.get(str(volume)) is not None, "entry")
            kill_for_good(lambda: _processes(volume))
            _, errors = process.communicate(timeout=PATIENCE_S)
        finally:
            if is_mounted(volume):
                fusevol("unmount", "--lazy", volume, check=False)
    assert process.returncode == 1
    assert f"{volume}: keeper and worker were killed; the mount is gone" in errors
    assert not is_mounted(volume)
    last = Served(place / "source", volume, place / "log").records()[-1]
    assert (last["op"], last["result"]) == ("unmount", "EIO")
    assert last["reason"] == "keeper and worker were killed"


def _processes(volume: Path) -> tuple[int, int]:
    served = registry.get(str(volume))
    return (0, 0) if served is None else (served.pid, served.worker)


def test_the_daemon_unmounts_when_asked_to_end(place: Path) -> None:
    with serve(place) as mount:
        status = mount.status()
        os.kill(status["pid"], signal.SIGTERM)
        wait_until(lambda: not runs(status["pid"]), "end of the daemon")
        assert not is_mounted(mount.mountpoint)
        assert not runs(status["worker"])
    last = mount.records()[-1]
    assert (last["op"], last["result"]) == ("unmount", "ok")


def test_the_daemon_lets_clients_finish_when_asked_to_end(place: Path) -> None:
    with serve(place) as mount:
        status = mount.status()
        with (mount.mountpoint / "open").open("w") as file:
            os.kill(status["pid"], signal.SIGTERM)
            wait_until(lambda: not is_mounted(mount.mountpoint), "detached mount")
            file.write("the last words")
        wait_until(lambda: not runs(status["pid"]), "end of the daemon")
    assert (mount.source / "open").read_text() == "the last words"
    last = mount.records()[-1]
    assert (last["op"], last["result"]) == ("unmount", "ok")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_foreground_ends_on_a_signal(place: Path, number: signal.Signals) -> None:
    volume = place / "volume"
    with subprocess.Popen(
        [FUSEVOL, "mount", "-f", place / "source", volume, "--log", place / "log"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            wait_until(lambda: is_mounted(volume), "mount")
            wait_until(lambda: registry.get(str(volume)) is not None, "entry")
            assert (volume / "kept").read_text() == "kept"
            process.send_signal(number)
            output, errors = process.communicate(timeout=PATIENCE_S)
        finally:
            if process.poll() is None:
                process.kill()
            if is_mounted(volume):
                fusevol("unmount", "--lazy", volume, check=False)
    assert (process.returncode, output, errors) == (0, "", "")
    assert not is_mounted(volume)


def test_the_foreground_ends_on_control_c_of_a_terminal(place: Path) -> None:
    """The terminal sends SIGINT to daemon and worker alike."""
    volume = place / "volume"
    with subprocess.Popen(
        [FUSEVOL, "mount", "-f", place / "source", volume, "--log", place / "log"],
        start_new_session=True,
    ) as process:
        try:
            wait_until(lambda: registry.get(str(volume)) is not None, "entry")
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(timeout=PATIENCE_S) == 0
        finally:
            if is_mounted(volume):
                fusevol("unmount", "--lazy", volume, check=False)
    records = Served(place / "source", volume, place / "log").records()
    assert (records[-1]["op"], records[-1]["result"]) == ("unmount", "ok")


# --- names of places ---


@pytest.mark.parametrize(
    "name",
    [b"a b", b"new\nline", b"com,ma", b"back\\slash", b"\xc3\xa9t\xc3\xa9", b"q\"'", b"%41",
     b"x" * 150, b"-o", b"tab\t", b"\xff\xfe"],
    ids=repr,
)  # fmt: skip
def test_source_mount_point_and_log_can_have_any_name(tmp_path: Path, name: bytes) -> None:
    directory = Path(os.fsdecode(bytes(tmp_path) + b"/" + name))
    directory.mkdir()
    with serve(directory) as mount:
        (mount.mountpoint / "f").write_text("x")
        assert mount.status()["source"] == str(mount.source)
        # The volume is called after its mount point, and found by both.
        for option in ("--mount", "--volume"):
            shown = fusevol("log", "tail", "--json", "--op", "create", option, mount.mountpoint)
            assert '"path":"/f"' in shown.stdout
            assert shown.stderr == ""
        # A name of several lines is still one line.
        status = fusevol("status").stdout.splitlines()
        assert all(line.startswith(("/", "  ")) for line in status)
    first = mount.records()[0]
    assert name_of(first, "volume") == os.fsencode(mount.mountpoint)
    assert name_of(first, "source") == os.fsencode(mount.source)
    assert (mount.source / "f").read_text() == "x"
    assert mount.records()[-1]["op"] == "unmount"


def test_a_mount_in_place_shows_the_source_again_afterwards(place: Path) -> None:
    source = place / "source"
    fusevol("mount", source, source, "--log", place / "log")
    try:
        assert (source / "kept").read_text() == "kept"
        (source / "new").touch()
    finally:
        fusevol("unmount", source)
    assert sorted(path.name for path in source.iterdir()) == ["kept", "new"]
