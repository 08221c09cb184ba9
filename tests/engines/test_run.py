"""`fusevol run`, `ps` and `rm`: what a container is, how it ends, and what it leaves behind."""

import fcntl
import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.engines.layouts import entry, image, layer
from tests.engines.machine import command
from tests.engines.podman import RUNTIMES
from tests.engines.rootfs import tar_of
from tests.engines.runner import Runner, control_groups, left_over, runner_of
from tests.engines.shell import Shell
from tests.patience import PATIENCE_S
from tests.served import needs_root, read_log, runs, wait_until

pytestmark = needs_root

CAPABILITIES: Final = "00000000a80425fb"
"""Docker's default set."""


@pytest.fixture(scope="module", params=RUNTIMES)
def runner(request: pytest.FixtureRequest, rootfs: Path) -> Iterator[Runner]:
    """`fusevol run` with each runtime."""
    with runner_of(rootfs, request.param) as runner:
        yield runner


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    (directory / "inner").mkdir(parents=True)
    (directory / "file").write_text("content\n")
    (directory / "inner/file").write_text("inner\n")
    return directory


def test_the_exit_status_is_the_commands(runner: Runner) -> None:
    assert runner.run("--", "true").returncode == 0
    assert runner.run("--", "sh", "-c", "exit 37", check=False).returncode == 37
    assert runner.run("--", "sh", "-c", "kill -9 $$; sleep 9 & kill -KILL $!; wait $!",
                      check=False).returncode == 128 + 9  # fmt: skip
    for missing in ("/none", "none"):
        done = runner.run("--", missing, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (127, 1)
        assert missing in done.stderr
    for unfit in ("/etc/passwd", "/etc"):
        assert runner.run("--", unfit, check=False).returncode == 126


def test_standard_input_and_output_are_the_callers(runner: Runner) -> None:
    done = command(
        *runner.of_rootfs("--rm", "--", "wc", "-c"), env=runner.env, input=b"x" * 100_000
    )
    assert done.stdout.strip() == "100000"
    assert runner.run("--", "sh", "-c", "echo out; echo err >&2").stderr == "err\n"


def test_a_container_has_few_rights(runner: Runner) -> None:
    said = runner.run("--", "cat", "/proc/self/status").stdout
    fields = dict(line.split(":", 1) for line in said.splitlines())
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert fields[name].strip() == CAPABILITIES
    assert fields["CapInh"].strip() == fields["CapAmb"].strip() == "0" * 16
    assert fields["NoNewPrivs"].strip() == "1"
    for attempt in ("mount -t tmpfs none /mnt", "echo 1 >/proc/sys/kernel/printk",
                    "echo b >/proc/sysrq-trigger", "mkdir /sys/fs/x", "umount /proc"):  # fmt: skip
        assert runner.run("--", "sh", "-c", attempt, check=False).returncode != 0, attempt
    assert runner.run("--", "cat", "/proc/keys", "/proc/timer_list").stdout == ""


def test_devices_of_the_host_cannot_be_reached(runner: Runner) -> None:
    for place in ("/dev/memory", "/tmp/memory", "/dev/shm/memory"):
        script = f"busybox mknod {place} c 1 1; head -c 1 {place} && echo read"
        done = runner.run("--", "sh", "-c", script, check=False)
        assert (done.returncode, done.stdout) != (0, "read\n"), place
        assert (
            "not permitted" in done.stderr
            or "ermission denied" in done.stderr
            or ("Read-only" in done.stderr)
        )
    script = "echo x >/dev/null; head -c 1 /dev/zero | wc -c; echo y >/dev/shm/y; cat /dev/shm/y"
    assert runner.run("--", "sh", "-c", script).stdout.split() == ["1", "y"]


def test_another_user_has_none(runner: Runner) -> None:
    said = runner.run("-u", "user", "--", "sh", "-c", "id -u; id -g; grep Cap /proc/self/status")
    uid, gid, *rest = said.stdout.splitlines()
    assert (uid, gid) == ("1000", "1000")
    values = dict(line.split(":\t") for line in rest)
    assert values["CapEff"] == values["CapPrm"] == "0" * 16
    assert "no user nobody" in runner.run("-u", "nobody", "--", "id", check=False).stderr


def test_it_is_by_itself(runner: Runner) -> None:
    script = (
        "echo $$; hostname 2>/dev/null || cat /proc/sys/kernel/hostname; ls /proc/self/fd | wc -l"
    )
    said = runner.run("--hostname", "box", "--", "sh", "-c", script).stdout.split()
    assert said[:2] == ["1", "box"]
    net = runner.run("--", "cat", "/proc/net/dev").stdout
    assert [line.split(":")[0].strip() for line in net.splitlines()[2:]] == ["lo"]
    host = runner.run("--network=host", "--", "readlink", "/proc/self/ns/net").stdout.strip()
    assert host == os.readlink("/proc/self/ns/net")
    others = [
        runner.run("--", "readlink", f"/proc/self/ns/{kind}").stdout.strip()
        for kind in ("mnt", "pid", "uts", "ipc", "cgroup", "net")
    ]
    mine = [
        os.readlink(f"/proc/self/ns/{kind}")
        for kind in ("mnt", "pid", "uts", "ipc", "cgroup", "net")
    ]
    assert set(others).isdisjoint(mine)


def test_descriptors_of_the_caller_stay_outside(runner: Runner, tmp_path: Path) -> None:
    secret = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        done = subprocess.run(
            runner.of_rootfs("--rm", "--", "sh", "-c", "ls /proc/self/fd"), pass_fds=(secret,),
            env={**os.environ, **runner.env}, capture_output=True, text=True, check=True,
        )  # fmt: skip
    finally:
        os.close(secret)
    # The fourth is the directory that ls reads.
    assert done.stdout.split() == ["0", "1", "2", "3"]


def test_the_callers_terminal_is_not_the_containers(runner: Runner) -> None:
    ours, theirs = os.openpty()
    try:
        words = runner.of_rootfs("--rm", "--", "cat", "/proc/self/stat")
        done = subprocess.run(
            ["setsid", "--ctty", "--wait", *words], stdin=theirs, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **runner.env}, check=True,
        )  # fmt: skip
    finally:
        os.close(ours)
        os.close(theirs)
    _pid, _name, _state, _parent, _group, _session, terminal, *_ = done.stdout.split()
    assert terminal == "0"


def test_the_environment_is_what_was_said(runner: Runner) -> None:
    said = runner.run("-e", "A=b=c", "-w", "/tmp/new", "--", "sh", "-c", "env; pwd").stdout
    lines = said.splitlines()
    assert lines[-1] == "/tmp/new"
    assert "A=b=c" in lines
    assert not [line for line in lines if line.startswith("FUSEVOL")]
    done = runner.run("-w", "/etc/passwd", "--", "true", check=False)
    assert (done.returncode, "a directory" in done.stderr) == (125, True)
    done = runner.run("-w", "/proc/self/fd/0", "--", "true", check=False)
    assert done.returncode == 125


def test_directories_files_and_nested_places_can_be_volumes(runner: Runner, source: Path) -> None:
    said = runner.run(
        "-v", f"{source}/inner:/data/deep/inner:ro", "-v", f"{source}:/data",
        "-v", f"{source}/file:/etc/one", "--name", "nested", "--", "sh", "-c",
        "cat /data/file /data/deep/inner/file /etc/one; echo new >/data/new; echo more >>/etc/one; "
        "touch /data/deep/inner/x",
        check=False,
    )  # fmt: skip
    assert said.stdout == "content\ninner\ncontent\n"
    assert "Read-only file system" in said.stderr
    assert (source / "new").read_text() == "new\n"
    assert (source / "file").read_text() == "content\nmore\n"
    assert [r["op"] for r in runner.records("nested-etc-one")][-1] == "unmount"
    creates = [r for r in runner.records("nested-data") if r["op"] == "create"]
    assert [r["path"] for r in creates] == ["/new"]
    assert len(creates[0]["container"]) == 64


def test_each_volume_has_a_log_of_its_own(runner: Runner, source: Path) -> None:
    long = "x" * 255
    words = [f"-v{source}/inner:{place}" for place in ("/a/b", "/a-b", f"/{long}")]
    script = f"echo 1 >/a/b/1; echo 2 >/a-b/2; echo 3 >/{long}/3"
    runner.run("--name", "logs", *words, "--", "sh", "-c", script)
    logs = [read_log(path) for path in (runner.directory / "log").glob("logs-*.log")]
    created = [[r["path"] for r in records if r["op"] == "create"] for records in logs]
    assert sorted(created) == [["/1"], ["/2"], ["/3"]]


def test_records_name_the_container(runner: Runner, source: Path) -> None:
    words = runner.of_rootfs("--name", "named", "-v", f"{source}:/data", "--", "cat", "/data/file")
    command(*words, env=runner.env)
    read = [r for r in runner.records("named-data") if r["op"] == "read"]
    assert {r["container"] for r in read} == {runner.find("named")["id"]}
    runner.cli("rm", "named")


def test_volumes_are_nosuid_and_nodev(runner: Runner, source: Path) -> None:
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    said = runner.run("-v", f"{source}:/data", "--", "sh", "-c", "echo x >/data/null", check=False)
    assert "ermission denied" in said.stderr
    table = runner.run("-v", f"{source}:/data", "--", "grep", " /data ", "/proc/mounts").stdout
    assert {"nosuid", "nodev"} <= set(table.split()[3].split(","))


def test_a_symbolic_link_in_the_image_leads_nowhere_else(
    runner: Runner, source: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    rootfs = tmp_path / "rootfs"
    command("cp", "-a", runner.rootfs, rootfs)
    (rootfs / "link").symlink_to(outside)
    (rootfs / "etc-link").symlink_to("/etc")
    (rootfs / "up").symlink_to("../../../../../etc")
    for place in ("/etc-link/here", "/up/there"):
        words = runner.words("--rm", "--rootfs", rootfs, "-v", f"{source}:{place}")
        said = command(*words, "--", "sh", "-c", f"cat {place}/file; ls /etc", env=runner.env)
        assert said.stdout.startswith("content\n")
        assert place.rpartition("/")[2] in said.stdout
    words = runner.words("--rm", "--rootfs", rootfs, "-v", f"{source}:/link/data", "--", "true")
    assert command(*words, env=runner.env, check=False).returncode == 125
    assert list(outside.iterdir()) == []
    assert not Path("/etc/here").exists()
    assert not Path("/etc/there").exists()
    # The root file system it was made of is as it was.
    assert sorted(os.listdir(rootfs / "etc")) == sorted(os.listdir(runner.rootfs / "etc"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-v", "data:/data", "--", "true"], "fusevol serve is not running"),
        (["-v", "/usr:/usr", "-v", "data:/data", "--", "true"], "fusevol serve is not running"),
        (["-v", "/none:/data", "--", "true"], "source /none does not exist"),
        (["-v", "/tmp:/proc/x", "--", "true"], "cannot be mounted at /proc/x"),
        (["-v", "/tmp:/a", "-v", "/var:/a", "--", "true"], "two volumes"),
        (["-v", "/tmp", "-v", "x", "--", "true"], "invalid volume 'x'"),
        (["-e", "A", "--", "true"], "NAME=VALUE"),
        (["-e", "=A", "--", "true"], "NAME=VALUE"),
        (["--hostname", "x" * 65, "--", "true"], "64 bytes"),
        (["--hostname", "", "--", "true"], "64 bytes"),
        (["--", ""], "no command to run"),
        (["--name", "../x", "--", "true"], "invalid container name '../x'"),
        ([], "no command to run"),
    ],
)
def test_what_cannot_be_meant_is_refused(runner: Runner, words: Sequence[str], said: str) -> None:
    done = runner.run(*words, check=False)
    assert done.returncode == 125
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert runner.ps() == []


@pytest.mark.parametrize("variable", ["STATE", "RUNTIME", "LOG"])
def test_a_directory_that_cannot_be_used_is_named(
    runner: Runner, source: Path, variable: str
) -> None:
    env = {**runner.env, f"FUSEVOL_{variable}_DIRECTORY": "/proc/none"}
    words = runner.of_rootfs("--rm", "-v", f"{source}:/data", "--", "true")
    done = command(*words, env=env, check=False)
    assert done.returncode == 125
    assert "/proc/none: No such file or directory" in done.stderr
    assert done.stderr.count("\n") == 1
    assert runner.ps() == []


def test_containers_are_listed_kept_and_removed(runner: Runner, source: Path) -> None:
    words = runner.of_rootfs("--name", "kept", "-v", f"{source}:/data:ro", "--", "sh")
    with Shell(words, runner.env) as shell:
        found = runner.find("kept")
        assert found["status"] == "running"
        assert found["volumes"] == [
            {"volume": str(source), "subpath": "", "destination": "/data", "read_only": True}
        ]
        assert control_groups(found["id"])
        group = Path(f"/proc/{found['pid']}/cgroup").read_text()
        assert f"/fusevol/{found['id']}" in group
        assert shell("cat /proc/self/cgroup | grep -c fusevol || true") == "0"
        assert "is running" in runner.cli("rm", "kept", check=False).stderr
        again = command(
            *runner.of_rootfs("--name", "kept", "--", "true"), env=runner.env, check=False
        )
        assert "container kept already exists" in again.stderr
        shell("exit 3", check=False)
    found = runner.find("kept")
    assert (found["status"], found["exit_status"], found["pid"]) == ("exited", 0, 0)
    assert control_groups(found["id"]) == []
    runner.cli("rm", found["id"][:8])
    assert runner.ps() == []
    assert list((runner.directory / "state/containers").iterdir()) == []


def test_signals_reach_the_command(runner: Runner) -> None:
    script = "trap 'echo got; exit 5' TERM; echo ready; while true; do sleep 0.05; done"
    process = subprocess.Popen(
        runner.of_rootfs("--rm", "--", "sh", "-c", script), stdout=subprocess.PIPE, text=True,
        env={**os.environ, **runner.env},
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.stdout.read() == "got\n"
    assert process.wait(PATIENCE_S) == 5
    process.stdout.close()


@pytest.mark.parametrize("victim", ["caller", "monitor", "command"])
def test_sigkill_of_any_of_its_processes_ends_all_of_it(
    runner: Runner, source: Path, victim: str
) -> None:
    process = subprocess.Popen(
        runner.of_rootfs("--name", victim, "-v", f"{source}:/data", "--", "sh", "-c",
                         "exec 3>/data/held; echo ready; sleep 600"),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, **runner.env},
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    found = runner.find(victim)
    entry = runner.directory / "state/containers" / found["id"] / "container.json"
    monitor = json.loads(entry.read_text())["monitor"]["pid"]
    os.kill({"caller": process.pid, "monitor": monitor, "command": found["pid"]}[victim],
            signal.SIGKILL)  # fmt: skip
    status = process.wait(PATIENCE_S)
    process.stdout.close()
    wait_until(lambda: not runs(found["pid"]) and not runs(monitor), "end of the container")
    if victim == "command":
        assert status == 128 + 9
    wait_until(lambda: runner.find(victim)["status"] == "exited", "the container's end")
    if victim != "caller":
        # Who called could clean up.
        assert left_over(runner.directory) == []
        assert control_groups(found["id"]) == []
    runner.cli("rm", victim)
    assert left_over(runner.directory) == []
    assert control_groups(found["id"]) == []


@pytest.fixture(scope="module")
def base(rootfs: Path) -> bytes:
    """A layer of the root file system."""
    return tar_of(rootfs)


def test_an_image_says_what_runs_in_it(runner: Runner, base: bytes, tmp_path: Path) -> None:
    reference = image(
        tmp_path / "layout", base, Env=["FROM=image", "PATH=/bin"], Entrypoint=["sh", "-c"],
        Cmd=["echo $FROM $(id -u) $(pwd)"], User="user", WorkingDir="/tmp",
    )  # fmt: skip
    said = command(*runner.words("--rm", "--image", reference), env=runner.env).stdout
    assert said == "image 1000 /tmp\n"
    words = runner.words("--rm", "--image", reference, "-e", "FROM=me", "-u", "0", "--")
    assert command(*words, "echo $FROM $(id -u)", env=runner.env).stdout == "me 0\n"


def test_layers_hide_and_replace_what_is_below(runner: Runner, base: bytes, tmp_path: Path) -> None:
    reference = image(
        tmp_path / "layout", base,
        layer(entry("data/.wh.original"), entry("data/new", content=b"new"),
              entry("mnt/a", tarfile.DIRTYPE), entry("mnt/a/b"), entry("tmp/x", content=b"1")),
        layer(entry("mnt/a", tarfile.DIRTYPE), entry("mnt/a/.wh..wh..opq"), entry("mnt/a/c"),
              entry("tmp/x", tarfile.DIRTYPE),
              entry("tmp/x/y", mode=0o4755, uid=7, gid=8, mtime=99)),
    )  # fmt: skip
    words = runner.words("--rm", "--image", reference, "--", "sh", "-c",
                         "ls /data /mnt/a; stat -c '%a %u %g %Y' /tmp/x/y")  # fmt: skip
    said = command(*words, env=runner.env).stdout
    assert said.split("\n") == ["/data:", "new", "", "/mnt/a:", "c", "4755 7 8 99", ""]


def test_a_hostile_layer_does_nothing_outside(runner: Runner, base: bytes, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("safe")
    evil = [
        entry("../../../../../../../../../../tmp/fusevol-escaped", content=b"x"),
        entry(str(outside / "absolute"), content=b"x"),
        entry("link", tarfile.SYMTYPE, str(outside)),
        entry("link/through", content=b"x"),
        entry("hard", tarfile.LNKTYPE, str(outside / "victim")),
    ]
    for number, one in enumerate(evil):
        members = evil[2:4] if number == 3 else [one]
        reference = image(tmp_path / f"layout{number}", base, layer(*members))
        command(
            *runner.words("--rm", "--image", reference, "--", "true"), env=runner.env, check=False
        )
    assert os.listdir(outside) == ["victim"]
    assert (outside / "victim").read_text() == "safe"
    assert (outside / "victim").stat().st_nlink == 1
    assert not Path("/tmp/fusevol-escaped").exists()
    assert runner.ps() == []


def test_a_damaged_layer_is_not_used(runner: Runner, base: bytes, tmp_path: Path) -> None:
    added = layer(entry("data/added", content=b"right"))
    reference = image(tmp_path / "layout", base, added)
    blob = tmp_path / "layout/blobs/sha256" / hashlib.sha256(added).hexdigest()
    blob.write_bytes(added.replace(b"right", b"wrong"))
    done = command(
        *runner.words("--rm", "--image", reference, "--", "true"), env=runner.env, check=False
    )
    assert done.returncode == 125
    assert "damaged" in done.stderr
    blob.write_bytes(added)
    words = runner.words("--rm", "--image", reference, "--", "cat", "/data/added")
    assert command(*words, env=runner.env).stdout == "right"
    assert not list((runner.directory / "state/layers").glob("unpacking-*"))


def test_containers_of_one_image_can_start_at_once(
    runner: Runner, base: bytes, tmp_path: Path
) -> None:
    reference = image(tmp_path / "layout", base, layer(entry("data/unique", content=os.urandom(8))))
    processes = [
        subprocess.Popen(
            runner.words("--rm", "--image", reference, "--", "sh", "-c", f"echo {n} >/x; cat /x"),
            env={**os.environ, **runner.env}, stdout=subprocess.PIPE, text=True,
        )
        for n in range(5)
    ]  # fmt: skip
    assert [process.communicate(timeout=PATIENCE_S)[0] for process in processes] == [
        f"{n}\n" for n in range(5)
    ]


def test_a_name_is_given_once(runner: Runner) -> None:
    words = runner.of_rootfs("--name", "wanted", "--", "true")
    assert runner.ps() == []
    directory = os.open(runner.directory / "state/containers", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        inode = f":{os.fstat(directory).st_ino} "
        processes = [
            subprocess.Popen(
                words, env={**os.environ, **runner.env}, stderr=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        wait_until(
            lambda: len(re.findall(f"->.*{inode}", Path("/proc/locks").read_text())) == 2,
            "both to have found the name free",
        )
    finally:
        os.close(directory)
    ended = [
        (process.communicate(timeout=PATIENCE_S)[1], process.returncode) for process in processes
    ]
    refused = "fusevol: container wanted already exists; remove it with `fusevol rm wanted`\n"
    assert sorted(ended) == [("", 0), (refused, 125)]
    runner.cli("rm", "wanted")


def test_an_image_can_have_many_layers(runner: Runner, base: bytes, tmp_path: Path) -> None:
    layers = [layer(entry(f"data/{number}", content=b"x")) for number in range(100)]
    reference = image(tmp_path / "layout", base, *layers)
    words = runner.words("--rm", "--image", reference, "--", "sh", "-c", "ls /data | wc -l")
    assert command(*words, env=runner.env).stdout == "101\n"


def test_what_a_killed_command_unpacked_is_removed(
    runner: Runner, base: bytes, tmp_path: Path
) -> None:
    (runner.directory / "state/layers/unpacking-before/a/b").mkdir(parents=True)
    reference = image(tmp_path / "layout", base, layer(entry("data/x", content=os.urandom(8))))
    command(*runner.words("--rm", "--image", reference, "--", "true"), env=runner.env)
    assert not list((runner.directory / "state/layers").glob("unpacking-*"))


@pytest.mark.parametrize(
    "members",
    [
        [entry("a/.wh.")],
        [entry("a/.wh...")],
        [entry("a/.wh..")],
        [entry("/".join("d" * 1500), tarfile.DIRTYPE)],
        [entry("x", pax_headers={"mtime": "never"})],
        [entry("x", pax_headers={"mtime": "1e400"})],
        [entry("x", b"Z")],
    ],
)
def test_what_no_layer_should_hold_is_an_error(
    runner: Runner, base: bytes, tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    reference = image(tmp_path / "layout", base, layer(*members))
    words = runner.words("--rm", "--image", reference, "--", "true")
    done = command(*words, env=runner.env, check=False)
    assert done.returncode in (0, 125)
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert done.stderr.startswith("fusevol: layer sha256:")
        assert done.stderr.count("\n") == 1
    assert not list((runner.directory / "state/layers").glob("unpacking-*"))


@pytest.mark.parametrize("place", ["proc", "sys", "dev"])
def test_the_kernels_places_are_no_links(runner: Runner, tmp_path: Path, place: str) -> None:
    rootfs = tmp_path / "rootfs"
    command("cp", "-a", runner.rootfs, rootfs)
    (rootfs / place).rmdir()
    (rootfs / place).symlink_to("/tmp")
    words = runner.words("--rm", "--rootfs", rootfs, "--", "true")
    done = command(*words, env=runner.env, check=False)
    assert done.returncode == 125
    assert done.stderr == f"fusevol: /{place} of the container: it is a symbolic link\n"


def test_a_container_can_nest_directories_very_deeply(runner: Runner) -> None:
    script = "cd /tmp; while mkdir d && cd d; do :; done 2>/dev/null; pwd | wc -c"
    done = runner.cli(
        "run", "--rootfs", runner.rootfs, "--name", "deep", "--", "sh", "-c", script
    )  # fmt: skip
    assert int(done.stdout) > 4000
    runner.cli("rm", "deep")
    assert runner.ps() == []
