"""Who is told of a mount sees it; and who makes one that the host does not see is told."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.engines.daemon import Daemon, plain_daemon
from tests.served import FUSEVOL, fusevol, is_mounted, needs_root, runs, status_of, wait_until

pytestmark = needs_root

_ASK: Final = """\
import sys
from tests.plugin_client import Plugin
answer = Plugin(sys.argv[1]).ask("VolumeDriver.Mount", {"Name": sys.argv[2], "ID": "one"})
print(answer.status, answer.body["Err"])
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with plain_daemon("idle_timeout = 60.0\n") as daemon:
        daemon.configure(
            f'idle_timeout = 60.0\n[docker]\nenabled = true\nsocket = "{daemon.directory}/p.sock"\n'
        )
        daemon.restart()
        yield daemon


@pytest.fixture
def volume(daemon: Daemon, tmp_path: Path) -> Iterator[str]:
    source = tmp_path / "volume-source"
    source.mkdir()
    (source / "file").write_text("content\n")
    daemon.create("data", source)
    yield "data"
    daemon.cli("volume", "release", "data", "--force")
    daemon.cli("volume", "rm", "data")


def ask(daemon: Daemon, volume: str, *words: str) -> str:
    """Ask the plugin for a volume, from where `words` lead; return its answer."""
    done = subprocess.run(
        [*words, *asking(daemon, volume)], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def asking(daemon: Daemon, volume: str) -> list[str]:
    """Return words that ask the plugin for a volume."""
    return [sys.executable, "-c", _ASK, f"{daemon.directory}/p.sock", volume]


def in_namespace(script: str, propagation: str = "private") -> list[str]:
    """Return words that run what follows after a script, in a mount namespace of its own."""
    words = ["unshare", "--mount", "--propagation", propagation]
    return [*words, "sh", "-c", f'{script}\nexec "$@"', "sh"]


def test_an_engine_that_sees_the_mount_gets_it(daemon: Daemon, volume: str) -> None:
    assert ask(daemon, volume) == "200"
    assert ask(daemon, volume, *in_namespace("", "slave")) == "200"


def test_an_engine_that_does_not_see_the_mount_is_refused(daemon: Daemon, volume: str) -> None:
    place = Path(daemon.mount_point(volume))
    answer = ask(daemon, volume, *in_namespace(""))
    assert answer.startswith(f"500 volume data, at {place}: python")
    assert "in another mount namespace" in answer
    assert daemon.references(volume) == {}
    # There is not even a directory to write to.
    assert not place.exists()


def test_a_refusal_leaves_other_users_alone(daemon: Daemon, volume: str) -> None:
    words = [*in_namespace("echo; read x"), *asking(daemon, volume)]
    with subprocess.Popen(words, stdin=-1, stdout=-1, text=True) as engine, daemon.client() as one:
        assert engine.stdout
        assert engine.stdout.readline() == "\n"
        place = one.mount(volume, "other").mountpoint
        answer, _ = engine.communicate("\n")
        assert answer.startswith("500 ")
        assert daemon.references(volume) == {"other": 1}
        assert Path(place, "file").read_text() == "content\n"


def test_a_mount_that_is_hidden_by_another_is_not_seen(daemon: Daemon, volume: str) -> None:
    place = daemon.directory / "runtime/volumes"
    answer = ask(daemon, volume, *in_namespace(f"mount -t tmpfs tmpfs {place}", "slave"))
    assert answer.startswith("500 ")
    assert "in another mount namespace" in answer


def test_a_container_of_fusevol_run_never_gets_what_is_below_the_mount_point(
    daemon: Daemon, volume: str, rootfs: Path
) -> None:
    words = (FUSEVOL, "run", "--rm", "--rootfs", rootfs, "-v", "data:/data", "--", "ls", "/data")
    done = subprocess.run(
        [*in_namespace(""), *words], env={**os.environ, **daemon.env}, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 125
    assert "is not mounted here" in done.stderr
    wait_until(lambda: daemon.references(volume) == {}, "end of the reference")


# --- a mount that only its makers see ---


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSEVOL_RUNTIME_DIRECTORY", str(tmp_path / "run"))
    for name in ("source", "volume"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_a_mount_in_a_namespace_of_its_own_is_told(place: Path) -> None:
    mounting: list[str | Path] = [
        FUSEVOL,
        "mount",
        place / "source",
        place / "volume",
        "--log",
        place / "log",
    ]
    script = f'echo; read x; {FUSEVOL} status; read x; {FUSEVOL} unmount "$0"'
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", f'"$@"; {script}',
         place / "volume", *mounting],
        stdin=-1, stdout=-1, stderr=-1, text=True,
    ) as shell:  # fmt: skip
        assert shell.stdin
        assert shell.stdout
        assert shell.stderr
        assert "is mounted in a private mount namespace" in shell.stderr.readline()
        assert shell.stdout.readline() == "\n"
        assert not is_mounted(place / "volume")
        told = status_of(place / "volume")
        assert told["mounted"] is False
        said = fusevol("status").stdout
        assert f"mounted only in another mount namespace, that of process {told['pid']};" in said
        inside, _ = shell.communicate("\n\n")
        assert "is mounted in a private mount namespace" in inside
    wait_until(lambda: not runs(told["pid"]), "end of the keeper")


def test_a_service_whose_mount_the_host_does_not_see_fails(place: Path) -> None:
    mounting: list[str | Path] = [
        FUSEVOL, "mount", "-f", place / "source", place / "volume", "--log", place / "log",
    ]  # fmt: skip
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", *mounting], capture_output=True,
        text=True, timeout=60, check=False, env={**os.environ, "NOTIFY_SOCKET": "/dev/null"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "neither the host nor containers see it" in done.stderr
    assert "Private*=" in done.stderr
    assert fusevol("status").stdout == "no mounts are served\n"


# --- mounting again what lives on elsewhere ---


def test_what_was_unmounted_and_is_used_elsewhere_is_mounted_again(place: Path) -> None:
    words = ("mount", place / "source", place / "volume", "--log", place / "log")
    fusevol(*words)
    worker = status_of(place / "volume")["worker"]
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; read x"],
        stdin=-1, stdout=-1, text=True,
    ) as other:  # fmt: skip
        assert other.stdout
        assert other.stdout.readline() == "\n"
        fusevol("unmount", place / "volume")
        assert status_of(place / "volume")["mounted"] is False
        assert "unmounted here" in fusevol("status").stdout
        refused = fusevol(*words, "-o", "deadline=5", check=False)
        assert refused.returncode == 1
        assert "with other options" in refused.stderr
        fusevol(*words)
        told = status_of(place / "volume")
        assert (told["worker"], told["mounted"]) == (worker, True)
        (place / "volume/file").touch()
        fusevol("unmount", place / "volume")
        other.communicate("\n")
    wait_until(lambda: not runs(worker), "end of the worker")
    assert fusevol("status").stdout == "no mounts are served\n"


def test_two_mounts_cannot_have_one_name(place: Path) -> None:
    words = ("--name", "data", "--log", "none")
    (place / "other").mkdir()
    fusevol("mount", place / "source", place / "volume", *words)
    try:
        assert "  name   data\n" in fusevol("status").stdout
        refused = fusevol("mount", place / "source", place / "other", *words, check=False)
        assert refused.returncode == 2
        assert f"name data is already used by the mount at {place}/volume" in refused.stderr
    finally:
        fusevol("unmount", place / "volume")
    fusevol("mount", place / "source", place / "other", *words)
    fusevol("unmount", place / "other")
