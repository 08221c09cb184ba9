"""scripts/demo: runs to its end, and leaves nothing behind however it ends."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.served import wait_until

DEMO = Path(__file__).parents[2] / "scripts/demo"


def start(directory: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [DEMO], env={**os.environ, "TMPDIR": str(directory)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def is_in_mount_table(directory: Path) -> bool:
    # In bytes: there may be mounts of others with names that are no text.
    return os.fsencode(directory) in Path("/proc/self/mountinfo").read_bytes()


def assert_nothing_is_left(directory: Path) -> None:
    assert list(directory.iterdir()) == []
    assert not is_in_mount_table(directory)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = process.joinpath("cmdline").read_bytes()
            said = command + process.joinpath("environ").read_bytes()
        except OSError:
            continue
        if process.name != str(os.getpid()):
            assert os.fsencode(directory) not in said, command


def test_demo_shows_the_log_and_leaves_nothing(tmp_path: Path) -> None:
    with start(tmp_path) as demo:
        output, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 0, output
    for expected in (
        "/desk/note.txt -> /desk/done.txt", "ENOENT", "orders, sum: 100 49500",
        "numbered without a gap", '"op":"unmount","result":"ok"',
    ):  # fmt: skip
        assert expected in output, output
    assert "Traceback" not in output
    assert "\x1b" not in output
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_demo_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path) as demo:
        wait_until(lambda: is_in_mount_table(tmp_path), "the mount")
        os.killpg(demo.pid, number)
        output, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 128 + number, output
    assert_nothing_is_left(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to hide the device")
def test_demo_fails_where_nothing_can_be_mounted(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /dev/fuse && "$1"', "sh", DEMO],
        env={**os.environ, "TMPDIR": str(tmp_path)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "this should have worked: fusevol mount" in done.stderr
    assert_nothing_is_left(tmp_path)
