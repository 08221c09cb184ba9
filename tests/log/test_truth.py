"""What happens on a volume is what stands in its log: nothing is missing, nothing is made up."""

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from fusevol.record.record import FORMAT_VERSION
from tests.log.system_calls import Comparison, trace
from tests.patience import PATIENCE_S
from tests.served import Served, assert_no_gap_in_numbers, fusevol, name_of, needs_root, serve

_CLIENT = r"""
import contextlib, errno, os

def fails(number, call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except OSError as error:
        assert error.errno == number, (call, error)
    else:
        raise AssertionError(call)

os.mkdir("d")
fails(errno.EEXIST, os.mkdir, "d")
fails(errno.ENOENT, os.mkdir, "none/d")
fd = os.open("d/a", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
fails(errno.EEXIST, os.open, "d/a", os.O_RDWR | os.O_CREAT | os.O_EXCL)
for n in range(5):
    assert os.write(fd, b"x" * (1000 + n)) == 1000 + n
assert os.pwrite(fd, b"y" * 4096, 12345) == 4096
assert os.pread(fd, 100, 12345) == b"y" * 100
assert os.pread(fd, 100, 1 << 30) == b""
assert os.pwrite(fd, bytes(3 << 20), 1 << 20) == 3 << 20
assert len(os.pread(fd, 3 << 20, 1 << 20)) == 3 << 20
os.fsync(fd)
os.fdatasync(fd)
os.ftruncate(fd, 777)
os.fchmod(fd, 0o600)
os.close(fd)
fd = os.open("d/a", os.O_WRONLY | os.O_APPEND)
os.write(fd, b"end")
os.close(fd)
fd = os.open("d/a", os.O_RDONLY)
while os.read(fd, 300): pass
os.close(fd)
fails(errno.ENOENT, os.open, "d/none", os.O_RDONLY)
fails(errno.ENOENT, os.unlink, "d/none")
fails(errno.ENOENT, os.stat, "d/none")
fails(errno.ENOTEMPTY, os.rmdir, "d")
fails(errno.EISDIR, os.unlink, "d")
fails(errno.ENOTDIR, os.rmdir, "d/a")
os.link("d/a", "d/hard")
fails(errno.EEXIST, os.link, "d/a", "d/hard")
os.symlink("a", "d/soft")
assert os.readlink("d/soft") == "a"
fails(errno.EINVAL, os.readlink, "d/a")
os.mkfifo("d/fifo")
os.rename("d/hard", "d/moved")
fails(errno.ENOENT, os.rename, "d/hard", "d/x")
os.mkdir("e")
os.mkdir("e/full")
fails(errno.ENOTEMPTY, os.rename, "d", "e")
os.chmod("d/a", 0o4755)
os.chown("d/a", 12, 34)
os.chown("d/soft", 12, 34, follow_symlinks=False)
os.truncate("d/a", 5)
os.utime("d/a", ns=(1, 2))
os.setxattr("d/a", "user.one", b"1")
assert os.getxattr("d/a", "user.one") == b"1"
fails(errno.ENODATA, os.getxattr, "d/a", "user.two")
os.listxattr("d/a")
os.removexattr("d/a", "user.one")
fails(errno.ENODATA, os.removexattr, "d/a", "user.one")
assert sorted(os.listdir("d")) == ["a", "fifo", "moved", "soft"]
for name in os.listdir("d"):
    os.lstat("d/" + name)
for name in os.listdir("d"):
    os.unlink("d/" + name)
os.rmdir("d")
os.rmdir("e/full")
os.rmdir("e")
"""

_COREUTILS = r"""
set -e
mkdir -p one/two/three
dd if=/dev/zero of=one/file bs=100000 count=3 2> /dev/null
cp one/file one/two/copy
cp -a one other
cmp one/file other/two/copy
mv one/file one/renamed
ln one/renamed one/two/hard
ln -s ../renamed one/two/soft
cat one/two/soft > /dev/null
! cat one/none 2> /dev/null
! rmdir one 2> /dev/null
! mkdir one 2> /dev/null
dd if=one/renamed of=one/dd bs=4096 skip=3 seek=5 count=7 conv=notrunc 2> /dev/null
truncate -s 10 one/dd
touch -d 2001-02-03 one/dd
chmod 600 one/dd
chown 12:34 one/dd
echo more >> one/dd
install -m 755 one/dd one/installed
ls -lR . > /dev/null
find . -type f > /dev/null
sort one/dd -o one/sorted
rm -r one other
"""


pytestmark = needs_root


@pytest.fixture
def strict() -> bool:
    return False


@pytest.fixture
def served(tmp_path: Path, strict: bool) -> Iterator[Served]:
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    with serve(tmp_path, *(["-o", "strict"] if strict else [])) as mount:
        yield mount
    assert_no_gap_in_numbers(mount.records())


@pytest.fixture
def volume(served: Served) -> Path:
    return served.mountpoint


@pytest.mark.parametrize(
    ("command", "least"),
    [([sys.executable, "-c", _CLIENT], 80), (["sh", "-c", _COREUTILS], 150)],
    ids=["python", "coreutils"],
)
@pytest.mark.parametrize("strict", [False, True])
def test_system_calls_and_records_tell_the_same(
    served: Served, command: list[str | Path], least: int, strict: bool
) -> None:
    calls = trace(command, served.log.parent / "strace", served.mountpoint)
    records = served.records()
    matched = 0
    pids = {call.pid for call in calls}
    for pid in pids:
        own = [record for record in records if record.get("pid") == pid]
        assert {(record["uid"], record["gid"]) for record in own} <= {(0, 0)}
        comparison = Comparison(served.mountpoint, served.mountpoint, own, strict=strict)
        for call in calls:
            if call.pid == pid:
                comparison.hold(call)
        comparison.finish()
        matched += comparison.matched
    assert matched > least
    # strace itself starts in the volume.
    others = [r for r in records if r.get("pid") not in pids and "pid" in r]
    assert {(r["op"], r["path"]) for r in others} <= {("getattr", "/"), ("lookup", "/strace")}


@pytest.mark.parametrize("strict", [False, True])
def test_the_kernel_answers_for_directories_within_a_tick(served: Served, strict: bool) -> None:
    looks = 200
    (served.source / "d").mkdir()
    fd = os.open(served.mountpoint / "d", os.O_PATH)
    for _ in range(looks):
        os.fstat(fd)
    os.close(fd)
    own = [r for r in served.records() if (r["op"], r.get("path")) == ("getattr", "/d")]
    assert (len(own) >= looks) == strict


def _run(code: str, cwd: Path, *prefix: str) -> tuple[int, str]:
    """Run Python code; return its pid and what it printed."""
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", code], cwd=cwd, stdout=subprocess.PIPE, text=True
    ) as process:
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    return process.pid, output


def test_a_record_tells_who(served: Served) -> None:
    served.mountpoint.chmod(0o777)
    options = ["setpriv", "--reuid=1234", "--regid=4321", "--clear-groups"]
    pid, _ = _run_sh("echo x > a; cat a > /dev/null; exec mv a b", served.mountpoint, *options)
    own = [r for r in served.records() if r.get("path", "").startswith(("/a", "/b"))]
    assert {"create", "write", "open", "read", "rename"} <= {r["op"] for r in own}
    assert {(r["uid"], r["gid"]) for r in own} == {(1234, 4321)}
    assert {r["comm"] for r in own} == {"sh", "cat", "mv"}
    assert [(r["pid"], r["comm"]) for r in own if r["op"] == "rename"] == [(pid, "mv")]
    assert [r["pid"] for r in own if r["op"] in ("create", "write")] == [pid, pid]
    assert all("container" not in r for r in own)
    status = (served.source / "b").stat()
    assert (status.st_uid, status.st_gid) == (1234, 4321)


def _run_sh(script: str, cwd: Path, *prefix: str) -> tuple[int, str]:
    with subprocess.Popen(
        [*prefix, "sh", "-c", script], cwd=cwd, stdout=subprocess.PIPE, text=True
    ) as process:
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    return process.pid, output


def test_who_opened_a_file_counts_as_who_uses_it(served: Served) -> None:
    """FUSE does not tell who reads or writes; a descriptor may be inherited or passed on."""
    script = "exec 3> a; (echo x >&3); /bin/echo y >&3"
    pid, _ = _run_sh(script, served.mountpoint)
    writes = [r for r in served.records() if r["op"] == "write"]
    assert [(r["pid"], r["comm"]) for r in writes] == [(pid, "sh")] * len(writes)
    assert [r["path"] for r in writes] == ["/a"] * len(writes)


def test_a_thread_counts_as_its_process(served: Served) -> None:
    code = (
        "import os, threading\n"
        "def work():\n"
        "    print(threading.get_native_id())\n"
        "    with open('t', 'w') as f: f.write('x')\n"
        "    os.mkdir('made')\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start(); thread.join()\n"
    )
    pid, output = _run(code, served.mountpoint)
    assert int(output) != pid
    own = [r for r in served.records() if r["op"] in ("create", "write", "mkdir")]
    assert [(r["op"], r["pid"]) for r in own] == [("create", pid), ("write", pid), ("mkdir", pid)]


def test_a_program_that_renames_itself_is_called_what_it_is_called_now(served: Served) -> None:
    code = (
        "import os\n"
        "for name in (b'first', b'se\"c\\n', b'\\xff\\\\'):\n"
        "    open('/proc/self/comm', 'wb').write(name)\n"
        "    os.mkdir(name)\n"
    )
    _run(code, served.mountpoint)
    own = [r for r in served.records() if r["op"] == "mkdir"]
    assert [name_of(r, "comm") for r in own] == [b"first", b'se"c\n', b"\xff\\"]


_NAMES = [
    b"plain", b"new\nline", b'quo"te', b"back\\slash", b"\\x41", b"\xff\xfe", b"caf\xc3\xa9",
    b"half \xc3", b"\x1b[31mred\x1b[0m", b"\x07\x7f\x01", b"\xe2\x80\xa8", b" ", b"a" * 255,
    b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\\", b"-rf", b"{}", b"'; rm", b"\t",
]  # fmt: skip


@pytest.mark.parametrize("name", _NAMES, ids=repr)
def test_any_name_can_be_told_from_the_record(served_once: Served, name: bytes) -> None:
    root = os.fsencode(served_once.mountpoint)
    before = served_once.last_seq()
    os.mkdir(root + b"/" + name)
    moved = name[::-1] + b"2" if len(name) < 255 else b"b"
    os.rename(root + b"/" + name, root + b"/" + moved)
    os.symlink(name, root + b"/" + moved + b"/" + name)
    assert os.readlink(root + b"/" + moved + b"/" + name) == name
    own = {r["op"]: r for r in served_once.since(before) if r["result"] == "ok"}
    assert name_of(own["mkdir"]) == b"/" + name
    assert name_of(own["rename"]) == b"/" + name
    assert name_of(own["rename"], "to") == b"/" + moved
    assert name_of(own["symlink"]) == b"/" + moved + b"/" + name
    assert name_of(own["symlink"], "target") == name
    assert name_of(own["readlink"], "target") == name
    # Nothing in a name gets out of its line, or to a terminal.
    shown = fusevol("log", "tail", "-n", "4", served_once.log).stdout
    assert len(shown.splitlines()) == 4
    assert "\x1b" not in shown
    os.unlink(root + b"/" + moved + b"/" + name)
    os.rmdir(root + b"/" + moved)


@pytest.fixture(scope="module")
def served_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("names")) as mount:
        yield mount
    assert_no_gap_in_numbers(mount.records())


def test_the_record_is_there_before_the_client_sees_the_result(served: Served) -> None:
    root = os.fsencode(served.mountpoint)
    fd = -1
    wanted = b""
    with served.log.open("rb") as log:
        for number in range(2000):
            log.seek(0, os.SEEK_END)
            match number % 4:
                case 0:
                    os.mkdir(root + b"/d")
                    wanted = b'"op":"mkdir","path":"/d"'
                case 1:
                    fd = os.open(root + b"/d/f", os.O_CREAT | os.O_RDWR)
                    os.write(fd, b"x")
                    wanted = b'"op":"write","path":"/d/f"'
                case 2:
                    os.unlink(root + b"/d/f")
                    wanted = b'"op":"unlink","path":"/d/f"'
                    os.close(fd)
                case _:
                    try:
                        os.stat(root + b"/none")
                    except FileNotFoundError:
                        wanted = b'"op":"lookup","path":"/none","result":"ENOENT"'
                    os.rmdir(root + b"/d")
            # Releases come when the kernel likes: one may be half written behind the record.
            assert re.search(re.escape(wanted) + rb"[^\n]*\n", log.read()), number


def test_a_client_killed_by_the_way_leaves_a_whole_log(served: Served) -> None:
    code = "import os\nwhile True: os.mkdir('d'); os.rmdir('d')"
    for _ in range(10):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=served.mountpoint)
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.2)
        finally:
            process.kill()
            process.wait()
        if (served.mountpoint / "d").exists():
            (served.mountpoint / "d").rmdir()
    assert_no_gap_in_numbers(served.records())


def test_times_are_those_of_the_operations(served: Served) -> None:
    import time
    from datetime import datetime

    before = time.time()
    (served.mountpoint / "d").mkdir()
    after = time.time()
    (record,) = [r for r in served.records() if r["op"] == "mkdir"]
    ended = datetime.fromisoformat(record["time"]).timestamp()
    assert before - 0.001 <= ended <= after + 0.001
    assert 0 < record["us"] <= (after - before) * 1e6
    times = [record["time"] for record in served.records()]
    assert all(one <= other for one, other in pairwise(times))


def test_reads_and_writes_are_told_in_full(served: Served) -> None:
    path = served.mountpoint / "f"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x" * 100, 1000)
    os.pread(fd, 5000, 1050)
    os.close(fd)
    served.await_released("/f")
    own = {r["op"]: r for r in served.records() if r.get("path") == "/f"}
    told = own["write"]["offset"], own["write"]["size"], own["write"]["bytes_written"]
    assert told == (1000, 100, 100)
    told = own["read"]["offset"], own["read"]["size"], own["read"]["bytes_read"]
    assert told == (1050, 5000, 50)
    assert (own["release"]["bytes_read"], own["release"]["bytes_written"]) == (50, 100)
    assert own["create"]["ino"] == path.stat().st_ino
    assert own["create"]["ino"] == own["read"]["ino"]


def test_level_data_tells_changes_opens_and_closes(tmp_path: Path) -> None:
    with serve(tmp_path, "--record", "data") as mount:
        trace([sys.executable, "-c", _CLIENT], tmp_path / "strace", mount.mountpoint)
    ops = [record["op"] for record in mount.records()]
    assert {
        "mount", "create", "open", "read", "write", "release", "fsync", "mkdir", "rmdir", "unlink",
        "rename", "link", "symlink", "mknod", "setattr", "setxattr", "removexattr", "opendir",
        "releasedir", "unmount",
    } <= set(ops)  # fmt: skip
    hidden = {
        "lookup", "getattr", "readlink", "getxattr", "listxattr", "statfs", "readdir", "flush",
    }  # fmt: skip
    assert not hidden & set(ops)
    assert_no_gap_in_numbers(mount.records())
    # What the kernel refuses after a lookup does not get here; what the host refuses does.
    assert ops.count("mkdir") == 3
    assert ops.count("open") + ops.count("create") == ops.count("release")
    results = [record["result"] for record in mount.records() if record["op"] == "rename"]
    assert results == ["ok", "ENOTEMPTY"]


def test_mount_and_unmount_are_told(tmp_path: Path) -> None:
    with serve(tmp_path, "--record", "data", "--name", "accounts") as mount:
        pass
    first, *_, last = mount.records()
    assert (first["op"], first["source"], first["level"]) == ("mount", str(mount.source), "data")
    assert first["format"] == FORMAT_VERSION
    assert (last["op"], last["result"]) == ("unmount", "ok")
    assert {record["volume"] for record in mount.records()} == {"accounts"}


def _cgroup_trees() -> list[Path]:
    """The control group hierarchies whose paths tell of containers: cgroups(7), v1, v2 or both."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [tree for name in ("systemd", "unified") if (tree := root / name).is_dir()]


@pytest.mark.parametrize("tree", _cgroup_trees(), ids=lambda tree: tree.name)
@pytest.mark.parametrize("shape", ["docker/{}", "system.slice/docker-{}.scope"])
def test_the_container_is_told(served: Served, tree: Path, shape: str) -> None:
    if not os.access(tree, os.W_OK) or os.statvfs(tree).f_flag & os.ST_RDONLY:
        pytest.skip(f"{tree} is read-only here")
    container = secrets.token_hex(32)
    group = tree / shape.format(container)
    made = [path for path in (group, *group.parents) if path != tree and not path.exists()]
    group.mkdir(parents=True)
    try:
        (served.mountpoint / "outside").mkdir()
        volume = served.mountpoint
        script = f"echo $$ > {group}/cgroup.procs; cd {volume}; mkdir inside; echo x > inside/f"
        _run_sh(script, Path("/"))
        by_path = {(r["op"], r.get("path")): r for r in served.records()}
        assert "container" not in by_path["mkdir", "/outside"]
        assert by_path["mkdir", "/inside"]["container"] == container
        assert by_path["create", "/inside/f"]["container"] == container
        assert by_path["write", "/inside/f"]["container"] == container
        options = ("-n", "all", "--json", "--container", container[:12])
        shown = fusevol("log", "tail", *options, served.log)
        ops = {json.loads(line)["op"] for line in shown.stdout.splitlines()}
        assert {"mkdir", "create", "write"} <= ops
    finally:
        for path in made:
            if path.is_dir() and tree in path.parents:
                path.rmdir()
