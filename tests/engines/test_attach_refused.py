"""What `fusevol attach` refuses, and what a container can do to what is attached to it."""

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from fusevol.binding.attachments import changing
from fusevol.binding.inside import Inside, inside
from fusevol.containers.target import RunningContainer, find_target
from fusevol.errors import FusevolError
from fusevol.linux.process import Process, start_ticks
from tests.engines.bundle import bundle_for
from tests.engines.daemon import Daemon, plain_daemon
from tests.engines.docker import docker_daemon
from tests.engines.engines import Container, DockerBind, Run, container
from tests.engines.machine import Mount, command, mounts
from tests.engines.rootfs import ORIGINAL
from tests.served import FUSEVOL, kill_for_good, needs_root, wait_until

pytestmark = needs_root

NO_ENGINE: Final = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with plain_daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def running(
    daemon: Daemon, oci_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    """A container of `fusevol run`."""
    engine = Run(daemon, oci_image, tmp_path_factory.mktemp("run") / "committed")
    with container(engine, "attached") as running:
        yield running


_TRIES: Final = 20


@contextmanager
def process(*options: str) -> Iterator[int]:
    """A process in a mount namespace of its own inside the block; options are of unshare(1)."""
    words = ["unshare", "--mount", *options, "--", "sh", "-c", "echo ready; exec sleep 600"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as started:
        assert started.stdout
        started.stdout.readline()
        try:
            yield started.pid
        finally:
            started.kill()


def attachments(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(daemon.cli("attach", "--list", "--json"))
    return found


def inside_of(pid: int, *words: str | Path) -> str:
    """Run a program of the host's busybox in the mount namespace of a process."""
    return command("nsenter", f"--target={pid}", "--mount", "/bin/busybox", *words).stdout


@pytest.mark.parametrize(
    ("target", "what", "answer"),
    [
        ("attached", "{volume}", "invalid volume"),
        ("attached", "{volume}:data", "absolute path"),
        ("attached", "{volume}:/", "container's root"),
        ("attached", "{volume}:/proc/self", "belongs to the kernel"),
        ("attached", "{volume}:/sys", "belongs to the kernel"),
        ("attached", "{volume}:/data:rx", "unknown mode"),
        ("attached", "{volume}/../x:/data", "'..'"),
        ("attached", "{volume}/nothing:/mnt/x", "cannot be bound: No such file or directory"),
        ("attached", "none:/mnt/x", "no volume named none"),
        ("attached", "/nowhere:/mnt/x", "does not exist"),
        ("attached", "{volume}:/data/original", "Not a directory"),
        ("attached", "{volume}:/etc/passwd/x", "Not a directory"),
        ("attached", "{volume}:/dev", "is already a mount (tmpfs)"),
        ("none", "{volume}:/data", "no container none"),
        ("lxc:web", "{volume}:/data", "unknown engine"),
        ("docker:", "{volume}:/data", "missing container name"),
        ("docker:web", "{volume}:/data", "Docker does not answer at /nowhere/docker.sock"),
        (
            "podman:no-such-container",
            "{volume}:/data",
            "no Podman container named no-such-container",
        ),
        ("pid:one", "{volume}:/data", "invalid target 'pid:one': expected a process id"),
        ("pid:0", "{volume}:/data", "no process with id 0"),
        ("pid:99999999999", "{volume}:/data", "expected a process id"),
        ("pid:4194305", "{volume}:/data", "no process with id 4194305"),
        ("pid:1", "{volume}:/data", "the mounts of the host"),
        ("pid:{self}", "{volume}:/data", "the mounts of the host"),
    ],
)
def test_what_cannot_be_attached(
    daemon: Daemon, running: Container, volume: str, target: str, what: str, answer: str
) -> None:
    before = mounts(running.pid)
    target, what = target.format(self=os.getpid()), what.format(volume=volume)
    done = command(FUSEVOL, "attach", target, what, env={**daemon.env, **NO_ENGINE}, check=False)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1, done.stderr
    assert answer in done.stderr
    assert mounts(running.pid) == before


def test_docker_on_another_host_cannot_be_reached(daemon: Daemon, volume: str) -> None:
    env = {**daemon.env, "DOCKER_HOST": "tcp://192.0.2.1:2375"}
    done = command(FUSEVOL, "attach", "docker:web", f"{volume}:/data", env=env, check=False)
    assert done.returncode == 5
    assert "is not a Unix socket" in done.stderr


def test_a_place_is_taken_once(daemon: Daemon, running: Container, volume: str) -> None:
    running("ln -s /data /mnt/to-data")
    daemon.cli("attach", "attached", f"{volume}:/data")
    for place in ("/data", "/mnt/to-data", "/mnt/../data/"):
        said = daemon.refused("attach", "attached", f"{volume}:{place}")
        assert "/data of attached is already a mount (fuse.fusevol)" in said
    daemon.cli("attach", "attached", f"{volume}:/data/within")
    assert daemon.references(volume) == {
        f"{running.id}:/data": 1, f"{running.id}:/data/within": 1,
    }  # fmt: skip
    assert "/data/within is mounted on it" in daemon.refused("detach", "attached", "/data")
    daemon.cli("detach", "attached", "/data/within")
    daemon.cli("detach", "attached", "//data/")
    running("rm /mnt/to-data")


def test_of_many_at_once_one_gets_the_place(
    daemon: Daemon, running: Container, volume: str
) -> None:
    def attach(_number: int) -> int:
        words = ("attach", "attached", f"{volume}:/mnt/contested")
        return command(FUSEVOL, *words, env=daemon.env, check=False).returncode

    with ThreadPoolExecutor(5) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSEVOL_STATE_DIRECTORY", daemon.env["FUSEVOL_STATE_DIRECTORY"])
        with changing():
            results = [pool.submit(attach, number) for number in range(5)]
            holder = f"{running.id}:/mnt/contested"
            wait_until(lambda: daemon.references(volume).get(holder) == 5, "five attempts")
            time.sleep(0.3)
            assert "/mnt/contested" not in [mount.point for mount in mounts(running.pid)]
        assert sorted(result.result() for result in results) == [0, 1, 1, 1, 1]
    (inside,) = [mount for mount in mounts(running.pid) if mount.point == "/mnt/contested"]
    assert inside.fstype == "fuse.fusevol"
    daemon.cli("detach", "attached", "/mnt/contested")
    assert "/mnt/contested" not in [mount.point for mount in mounts(running.pid)]


def test_nothing_is_detached_that_was_not_attached(
    daemon: Daemon, running: Container, volume: str
) -> None:
    said = daemon.refused("detach", "attached", "/dev/shm")
    assert "nothing is attached to attached at /dev/shm" in said
    with container(running.engine, "with-volume", f"{volume}:/data") as other:
        said = daemon.refused("detach", "with-volume", "/data")
        assert "nothing is attached" in said
        assert other("cat /data/from-host") == "made on the host"
    wait_until(lambda: daemon.references(volume) == {}, "end of the reference")


def test_detach_after_the_container_unmounted_it_itself(
    daemon: Daemon, running: Container, volume: str
) -> None:
    daemon.cli("attach", "attached", f"{volume}:/data")
    running.unmount("/data")
    assert "had already been unmounted from inside" in daemon.said("detach", "attached", "/data")
    assert daemon.references(volume) == {}
    assert attachments(daemon) == []


def test_attaching_anew_after_the_container_unmounted_it_itself(
    daemon: Daemon, running: Container, volume: str
) -> None:
    daemon.cli("attach", "attached", f"{volume}:/data")
    running.unmount("/data")
    daemon.cli("attach", "attached", f"{volume}:/data:ro")
    assert daemon.references(volume) == {f"{running.id}:/data": 1}
    assert [one["read_only"] for one in attachments(daemon)] == [True]
    daemon.cli("detach", "attached", "/data")


def test_what_another_mount_hides_is_left_alone(
    daemon: Daemon, running: Container, volume: str
) -> None:
    daemon.cli("attach", "attached", f"{volume}:/data")
    inside_of(running.pid, "mount", "-t", "tmpfs", "over", "/data")
    assert "is hidden by another mount" in daemon.refused("detach", "attached", "/data")
    assert daemon.references(volume) == {f"{running.id}:/data": 1}
    running.unmount("/data")
    assert running("cat /data/from-host") == "made on the host"
    daemon.cli("detach", "attached", "/data")


def replaced(daemon: Daemon, running: Container, volume: str) -> Mount | None:
    """Attach a volume and put another mount of the same id in its place; None if that failed.

    The kernel gives the lowest free id to the next mount: the very one, unless others on the
    machine mount something just now.
    """
    daemon.cli("attach", "attached", f"{volume}:/data")
    (attached,) = [mount for mount in mounts(running.pid) if mount.point == "/data"]
    running.unmount("/data")
    inside_of(running.pid, "mount", "-t", "tmpfs", "-o", "ro", "other", "/data")
    (other,) = [mount for mount in mounts(running.pid) if mount.point == "/data"]
    if other.id == attached.id:
        return other
    running.unmount("/data")
    daemon.cli("detach", "attached", "/data")
    return None


def test_another_mount_in_its_place_is_left_alone(
    daemon: Daemon, running: Container, volume: str
) -> None:
    tries = (replaced(daemon, running, volume) for _ in range(_TRIES))
    other = next(filter(None, tries), None)
    assert other is not None, "the id was never used again: the test shows nothing"
    assert "had already been unmounted from inside" in daemon.said("detach", "attached", "/data")
    assert [mount for mount in mounts(running.pid) if mount.point == "/data"] == [other]
    running.unmount("/data")


def test_it_is_found_where_the_container_moved_it(
    daemon: Daemon, running: Container, volume: str, tmp_path: Path
) -> None:
    running("mkdir -p /mnt/before")
    daemon.cli("attach", "attached", f"{volume}:/mnt/before/place")
    outside = tmp_path / "outside"
    outside.mkdir()
    running(f"mv /mnt/before /mnt/after; ln -s /../../..{outside} /mnt/before")
    assert running("cat /mnt/after/place/from-host") == "made on the host"
    daemon.cli("detach", "attached", "/mnt/before/place")
    assert running("ls /mnt/after/place") == ""
    running("rm /mnt/before; rm -r /mnt/after")


def test_a_path_that_changes_all_the_time_never_leads_outside(
    daemon: Daemon, running: Container, volume: str, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    running(
        f"mkdir -p /mnt/real/inner; ln -s ../../../..{outside} /mnt/evil; ln -s real /mnt/good; "
        "(while ! test -e /tmp/stop; do mv -T /mnt/evil /mnt/place; mv -T /mnt/place /mnt/evil; "
        "cp -P /mnt/good /mnt/place; mv -T /mnt/place /mnt/good; done) >/dev/null 2>&1 & true"
    )
    for _ in range(12):
        words = ("attach", "attached", f"{volume}:/mnt/place/inner/deep")
        done = command(FUSEVOL, *words, env=daemon.env, check=False)
        if done.returncode == 0:
            daemon.cli("detach", "attached", "/mnt/place/inner/deep")
    running("touch /tmp/stop")
    assert list(outside.rglob("*")) == [outside / "inner"]
    elsewhere = [mount.point for mount in mounts() if mount.source == str(tmp_path / "source")]
    assert set(elsewhere) <= {str(daemon.mount_point(volume))}
    assert attachments(daemon) == []
    running("rm -rf /tmp/stop /mnt/place /mnt/evil /mnt/good /mnt/real")


def test_detaching_when_the_mount_was_killed(
    daemon: Daemon, running: Container, volume: str
) -> None:
    daemon.cli("attach", "attached", f"{volume}:/data")
    kill_for_good(lambda: daemon.processes(volume))
    wait_until(lambda: daemon.inspect(volume)["state"] == "failed", "notice of the end")
    assert "not connected" in running("ls /data", check=False)
    daemon.cli("detach", "attached", "/data")
    assert running("cat /data/original") == ORIGINAL.strip()


def test_a_mount_that_is_gone_is_not_taken_for_the_volume(
    daemon: Daemon, running: Container, volume: str
) -> None:
    before = running("ls -A /mnt")
    with daemon.client() as client:
        client.mount(volume, "test")
        command("umount", "--lazy", daemon.mount_point(volume))
        wait_until(lambda: client.inspect(volume).state != "serving", "end of the worker")
        client.unmount(volume, "test")
    daemon.cli("attach", "attached", f"{volume}:/mnt/again")
    assert running("cat /mnt/again/from-host") == "made on the host"
    daemon.cli("detach", "attached", "/mnt/again")
    running("rmdir /mnt/again")
    assert running("ls -A /mnt") == before


def test_detaching_while_the_daemon_is_away(oci_image: str, source: Path, tmp_path: Path) -> None:
    with plain_daemon() as daemon:
        volume = daemon.create("away", source)
        with container(Run(daemon, oci_image, tmp_path / "committed"), "c1") as running:
            daemon.cli("attach", "c1", f"{volume}:/data")
            daemon.stop()
            assert running("cat /data/from-host") == "made on the host"
            said = daemon.said("detach", "c1", "/data")
            assert "away counts as in use until the container exits" in said
            assert "fusevol serve is not running" in said
            assert running("cat /data/original") == ORIGINAL.strip()
            refused = daemon.refused("attach", "c1", f"{volume}:/data")
            assert "fusevol serve is not running" in refused
            daemon.start()
        wait_until(lambda: daemon.references(volume) == {}, "end of the reference")


def test_a_restart_of_the_daemon_keeps_it(oci_image: str, source: Path, tmp_path: Path) -> None:
    with plain_daemon("idle_timeout = 0.2\n") as daemon:
        volume = daemon.create("kept", source)
        with container(Run(daemon, oci_image, tmp_path / "committed"), "c1") as running:
            daemon.cli("attach", "c1", f"{volume}:/data")
            daemon.restart()
            assert running("cat /data/from-host") == "made on the host"
            assert daemon.references(volume) == {f"{running.id}:/data": 1}
            daemon.cli("detach", "c1", "/data")
            assert daemon.references(volume) == {}


def test_detaching_while_the_engine_is_away(
    daemon: Daemon, rootfs: Path, volume: str, tmp_path: Path
) -> None:
    with docker_daemon(rootfs) as docker, container(DockerBind(docker, tmp_path), "c1") as one:
        env = {**daemon.env, **docker.env}
        command(FUSEVOL, "attach", "docker:c1", f"{volume}:/data", env=env)
        assert one("cat /data/from-host") == "made on the host"
        command(FUSEVOL, "detach", "docker:c1", "/data", env={**env, **NO_ENGINE})
        assert one("cat /data/original") == ORIGINAL.strip()
        assert daemon.references(volume) == {}
        # Known by the beginning of its id, and by its process.
        command(FUSEVOL, "attach", f"docker:{one.id[:12]}", f"{volume}:/data", env=env)
        daemon.cli("detach", f"pid:{one.pid}", "/data")
        docker.cli("pause", "c1")
        command(FUSEVOL, "attach", "docker:c1", f"{volume}:/data", env=env)
        docker.cli("unpause", "c1")
        assert one("cat /data/from-host") == "made on the host"
        docker.cli("kill", "c1")
        wait_until(lambda: daemon.references(volume) == {}, "end of the reference")
        done = command(FUSEVOL, "attach", "docker:c1", f"{volume}:/data", env=env, check=False)
        assert "container c1 is not running" in done.stderr


def test_a_process_with_mounts_of_its_own_and_no_container(
    daemon: Daemon, volume: str, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with process("--propagation=private") as pid:
        daemon.cli("attach", f"pid:{pid}", f"{volume}:{place}")
        there = f"/proc/{pid}/root{place}/from-host"
        assert Path(there).read_text() == "made on the host\n"
        assert list(place.iterdir()) == []
        (one,) = attachments(daemon)
        assert one["container"] == f"pid-{pid}-{start_ticks(pid)}"
        daemon.cli("detach", f"pid:{pid}", str(place))
        assert not Path(there).exists()


def test_a_process_stands_for_the_first_one_of_its_container(
    daemon: Daemon, running: Container, volume: str
) -> None:
    running("sleep 600 & echo $! >/tmp/pid")
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    daemon.cli("attach", f"pid:{children[0]}", f"{volume}:/data")
    os.kill(int(children[0]), signal.SIGKILL)
    assert [(one["container"], one["pid"]) for one in attachments(daemon)] == [
        (running.id, running.pid)
    ]
    daemon.cli("detach", "attached", "/data")


def test_mounts_that_are_shared_with_the_host_are_refused(
    daemon: Daemon, volume: str, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    command("mount", "-t", "tmpfs", "shared", shared)
    try:
        command("mount", "--make-shared", shared)
        with process("--propagation=unchanged") as pid:
            said = daemon.refused("attach", f"pid:{pid}", f"{volume}:{shared}/deep/place")
            assert f"{shared} of pid:{pid} shares its mounts with the host" in said
        with process("--propagation=slave") as pid:
            daemon.cli("attach", f"pid:{pid}", f"{volume}:{shared}/place")
            assert Path(f"/proc/{pid}/root{shared}/place/from-host").exists()
            assert list((shared / "place").iterdir()) == []
            daemon.cli("detach", f"pid:{pid}", f"{shared}/place")
    finally:
        command("umount", shared)


def test_a_container_with_a_user_namespace(daemon: Daemon, rootfs: Path, source: Path) -> None:
    """Root in there is 100000 on the host, and so it is on the volume."""
    (source / "mine").write_text("of the container\n")
    os.chown(source / "mine", 100000, 100000)
    os.chown(source, 100000, 100000)
    volume = daemon.create(f"v{next(_numbers)}", source)
    with bundle_for("runc", rootfs) as bundle:
        bundle.config["linux"]["namespaces"].append({"type": "user"})
        for kind in ("uid", "gid"):
            bundle.config["linux"][f"{kind}Mappings"] = [
                {"containerID": 0, "hostID": 100000, "size": 65536}
            ]
        command("chown", "-R", "100000:100000", bundle.rootfs)
        os.chown(bundle.rootfs, 0, 0)
        bundle.directory.chmod(0o755)
        with bundle.shell("c1") as shell:
            pid = bundle.pid("c1")
            shell("mkdir /tmp/own; id -u")
            daemon.cli("attach", f"pid:{pid}", f"{volume}:/data")
            # On a file system of the container's own, where only its users may make anything.
            daemon.cli("attach", f"pid:{pid}", f"{volume}:/dev/shm/made/place")
            # In a directory that belongs to none of its users.
            daemon.cli("attach", f"pid:{pid}", f"{volume}:/made/place")
            assert shell("stat -c '%u' /data/mine /data/from-host") == "0\n65534"
            assert shell("stat -c '%u' /dev/shm/made /made") == "0\n0"
            shell("echo new >/dev/shm/made/place/new")
            assert (source / "new").stat().st_uid == 100000
            assert "Permission denied" in shell("echo x >/data/from-host", check=False)
            daemon.cli("detach", f"pid:{pid}", "/data")
            daemon.cli("detach", f"pid:{pid}", "/dev/shm/made/place")
            daemon.cli("detach", f"pid:{pid}", "/made/place")
            shell("rmdir /dev/shm/made/place /dev/shm/made")
            assert shell("cat /data/original") == ORIGINAL.strip()
    daemon.cli("volume", "rm", volume)


def test_it_takes_the_right_to_mount(daemon: Daemon, running: Container, volume: str) -> None:
    for words in (
        ("--bounding-set=-sys_admin",),
        ("--reuid=65534", "--regid=65534", "--clear-groups"),
    ):
        done = command(
            "setpriv", *words, FUSEVOL, "attach", f"pid:{running.pid}", f"{volume}:/data",
            env=daemon.env, check=False,
        )  # fmt: skip
        assert done.returncode == 4 or "reuid" in words[0], done.stderr
        assert done.returncode != 0
        assert "Traceback" not in done.stderr or "reuid" in words[0]
    assert daemon.references(volume) == {}


def test_the_child_that_entered_loads_no_module(running: Container) -> None:
    target = RunningContainer("attached", running.id, "attached", Process.of(running.pid))

    def load(container: Inside) -> bytes:
        container.enter()
        import this  # noqa: F401

        return b""

    with pytest.raises(FusevolError, match=r"attached: (ModuleNotFoundError|ImportWarning)\("):
        inside(target, load)


def test_a_process_id_that_went_to_another_is_not_entered(running: Container) -> None:
    target = RunningContainer(
        "web", running.id, "web", Process(running.pid, start_ticks(running.pid) - 1)
    )
    with pytest.raises(FusevolError, match="web has exited"):
        inside(target, lambda _container: b"")


def test_a_word_means_the_same_container_each_way(daemon: Daemon, running: Container) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSEVOL_STATE_DIRECTORY", daemon.env["FUSEVOL_STATE_DIRECTORY"])
        by_name = find_target("attached")
        assert by_name == (
            "attached", running.id, "attached", Process.of(running.pid)
        )  # fmt: skip
        assert find_target(running.id[:10]).process == by_name.process
        assert find_target(f"pid:{running.pid}")[1::2] == by_name[1::2]
