"""`fusevol doctor`, here and on hosts that lack something."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from fusevol import doctor as host
from fusevol.doctor import CheckState
from fusevol.mounts import mounting
from fusevol.protocol.init import Flag

FUSEVOL = str(Path(sys.executable).with_name("fusevol"))
ALL_FLAGS = (
    Flag.DIRECT_IO_ALLOW_MMAP
    | Flag.HANDLE_KILLPRIV_V2
    | Flag.NO_EXPORT_SUPPORT
    | Flag.PASSTHROUGH
    | Flag.HAS_RESEND
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root to give up rights")


def doctor(*prefix: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [*prefix, FUSEVOL, "doctor", "--json"], capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout), done.stderr


def states(report: dict[str, Any]) -> dict[str, str]:
    return {check["check"]: check["state"] for check in report["checks"]}


def test_this_host_can_serve() -> None:
    status, report, errors = doctor()
    assert (status, errors) == (0, "")
    assert report["serves"] is True
    found = states(report)
    assert found["device"] == found["mount"] == found["libraries"] == "ok"
    assert "missing" not in found.values()


def test_the_trial_mount_is_gone_afterwards() -> None:
    doctor()
    assert b"fusevol-doctor" not in Path("/proc/self/mountinfo").read_bytes()
    assert not list(Path(tempfile.gettempdir()).glob("fusevol-doctor-*"))


def test_text_tells_what_to_do() -> None:
    done = subprocess.run([FUSEVOL, "doctor"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["ok", "device", "/dev/fuse", "can", "be", "opened"]
    warnings = [number for number, line in enumerate(lines) if line.startswith("warning")]
    for number in warnings:
        assert lines[number + 1].strip().startswith("costs: ")
        assert lines[number + 2].strip().startswith("to do: ")


@needs_root
def test_without_the_right_to_mount_it_says_so_and_exits_with_5() -> None:
    status, report, errors = doctor(
        "setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"
    )
    assert status == 5
    assert report["serves"] is False
    assert states(report)["mount"] == "missing"
    assert states(report)["mount copies"] == "warning"
    assert errors == "fusevol: cannot serve on this host: mount; see above\n"


@needs_root
def test_lacking_capabilities_are_named() -> None:
    _status, report, _ = doctor("setpriv", "--bounding-set", "-chown,-setpcap")
    [found] = [check for check in report["checks"] if check["check"] == "capabilities"]
    assert found["state"] == "warning"
    assert found["found"] == "missing CAP_CHOWN, CAP_SETPCAP"


@needs_root
def test_a_device_that_is_not_fuse_is_found_out() -> None:
    script = 'mount --bind /dev/null /dev/fuse && exec "$@"'
    status, report, _ = doctor("unshare", "-m", "sh", "-c", script, "sh")
    assert status == 5
    assert states(report)["mount"] == "missing"


def test_a_missing_device_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mounting, "FUSE_DEVICE", str(tmp_path / "fuse"))
    [found] = host.check_mounting()
    assert (found.check, found.state) == ("device", CheckState.MISSING)
    assert "modprobe fuse" in found.advice


def test_a_kernel_with_all_is_ok() -> None:
    found = list(host.check_kernel("6.12.1", (7, 41), ALL_FLAGS))
    assert {finding.state for finding in found} == {CheckState.OK}
    assert found[0].found == "Linux 6.12.1, FUSE protocol 7.41"


@pytest.mark.parametrize(
    ("flag", "check"),
    [
        (Flag.DIRECT_IO_ALLOW_MMAP, "shared maps"),
        (Flag.HANDLE_KILLPRIV_V2, "set-ID bits"),
        (Flag.NO_EXPORT_SUPPORT, "file handles"),
        (Flag.HAS_RESEND, "takeover"),
    ],
)
def test_what_a_kernel_lacks_is_a_warning_with_its_cost(flag: Flag, check: str) -> None:
    found = {f.check: f for f in host.check_kernel("6.1.0", (7, 37), ALL_FLAGS & ~flag)}
    assert found[check].state is CheckState.WARNING
    assert found[check].costs
    assert found[check].advice


def test_passthrough_is_not_missed_yet() -> None:
    found = {f.check: f for f in host.check_kernel("6.8", (7, 39), ALL_FLAGS & ~Flag.PASSTHROUGH)}
    assert found["kernel, later"].state is CheckState.OK
    assert found["kernel, later"].found.startswith("passthrough not offered")


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({}, CheckState.OK),
        ({"default_request_timeout": "0\n", "max_request_timeout": "0\n"}, CheckState.OK),
        ({"default_request_timeout": "30\n", "max_request_timeout": "0\n"}, CheckState.WARNING),
        ({"default_request_timeout": "0\n", "max_request_timeout": "600\n"}, CheckState.WARNING),
    ],
)
def test_request_timeouts(tmp_path: Path, values: dict[str, str], state: CheckState) -> None:
    for name, value in values.items():
        (tmp_path / name).write_text(value)
    assert host.check_timeouts(str(tmp_path)).state is state


@pytest.mark.parametrize(
    ("hard", "state"), [(1024, CheckState.WARNING), (1 << 20, CheckState.OK), (-1, CheckState.OK)]
)
def test_descriptors(hard: int, state: CheckState) -> None:
    assert host.check_descriptors(hard).state is state


@pytest.mark.parametrize(
    ("value", "state"), [("0", CheckState.WARNING), ("1", CheckState.WARNING), ("2", CheckState.OK)]
)
def test_io_uring(tmp_path: Path, value: str, state: CheckState) -> None:
    switch = tmp_path / "io_uring_disabled"
    switch.write_text(f"{value}\n")
    assert host.check_io_uring(str(switch)).state is state


@pytest.mark.parametrize(
    ("text", "root", "state"),
    [
        ("user_allow_other\n", False, CheckState.OK),
        ("#user_allow_other\n", False, CheckState.WARNING),
        ("mount_max = 5\n", True, CheckState.OK),
    ],
)
def test_fuse_conf(tmp_path: Path, text: str, root: bool, state: CheckState) -> None:
    conf = tmp_path / "fuse.conf"
    conf.write_text(text)
    assert host.check_fuse_conf(root, str(conf)).state is state


@pytest.mark.parametrize(
    ("root", "state"), [(True, CheckState.WARNING), (False, CheckState.MISSING)]
)
def test_fusermount_counts_for_users_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: bool, state: CheckState
) -> None:
    program = tmp_path / "fusermount3"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = host.check_fusermount(root)
    assert found.state is state
    assert found.found == f"{program} is not set-user-ID root"
    program.unlink()
    assert host.check_fusermount(root).found == "not installed"


def test_mount_helper(tmp_path: Path) -> None:
    found = host.check_helper((str(tmp_path),))
    assert found.state is CheckState.WARNING
    assert found.advice.startswith("ln -s ")
    (tmp_path / "mount.fusevol").symlink_to(Path(sys.executable).with_name("mount.fusevol"))
    assert host.check_helper((str(tmp_path),)).state is CheckState.OK
