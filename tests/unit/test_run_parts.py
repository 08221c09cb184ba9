"""What `fusevol run` makes of its words: limits, the filter of system calls, users, exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from fusevol.containers.ids import IdRange, free_range
from fusevol.errors import NotFoundError, UsageError
from fusevol.runtime import oci, seccomp
from fusevol.runtime.limits import Limits, parse_limits
from fusevol.runtime.userns import parse_userns


def test_limits_are_what_docker_means() -> None:
    limits = parse_limits("512M", 100, 1.5, True)
    assert limits == Limits(512 << 20, True, 100, 150_000)
    assert limits.resources() == {
        "memory": {"limit": 512 << 20, "swap": 1 << 30},
        "pids": {"limit": 100},
        "cpu": {"quota": 150_000, "period": 100_000},
    }
    assert parse_limits("7000001", None, None, False).files()["--memory"][0][1] == "6995968"
    assert parse_limits("0", -1, 0, False).resources() == {}


@pytest.mark.parametrize(
    "words",
    [("12x", None, None), ("5m", None, None), ("", None, None), (None, -2, None),
     (None, None, float("nan")), (None, None, float("inf")), (None, None, -1.0)],
)  # fmt: skip
def test_limits_that_mean_nothing_are_refused(words: tuple[Any, Any, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        parse_limits(*words, False)


def profile(tmp_path: Path, content: object) -> dict[str, Any]:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(content))
    return seccomp.load_profile(str(path))


def test_rules_of_a_profile_are_decided_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("platform.release", lambda: "6.1.0-9-amd64")

    def rule(name: str, **more: object) -> dict[str, object]:
        return {"names": [name], "action": "SCMP_ACT_ALLOW", "comment": "", **more}

    found = profile(tmp_path, {
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "defaultErrno": "ENOSYS",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": None},
        ],
        "syscalls": [
            rule("always", args=[{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}], errnoRet=1),
            rule("held", includes={"caps": ["CAP_CHOWN"]}),
            rule("not-held", includes={"caps": ["CAP_SYS_ADMIN"]}),
            rule("as-not-held", excludes={"caps": ["CAP_SYS_ADMIN"]}),
            rule("as-held", excludes={"caps": ["CAP_CHOWN"]}),
            rule("here", includes={"arches": ["amd64", "x32"]}),
            rule("elsewhere", includes={"arches": ["arm64"]}),
            rule("but-here", excludes={"arches": ["amd64"]}),
            rule("newer", includes={"minKernel": "6.2"}),
            rule("older", includes={"minKernel": "4.8"}),
            rule("no-longer", excludes={"minKernel": "5.0"}),
            {"name": "single", "action": "SCMP_ACT_ALLOW", "args": None},
        ],
    })  # fmt: skip
    assert [one["names"][0] for one in found["syscalls"]] == [
        "always", "held", "as-not-held", "here", "older", "single",
    ]  # fmt: skip
    assert found["syscalls"][0] == {
        "names": ["always"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1,
        "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}],
    }  # fmt: skip
    assert found["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert (found["defaultAction"], found["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "not in the format of Docker's profiles"),
        ({}, "'defaultAction' is missing"),
        ({"defaultAction": "x", "syscalls": [{}]}, "'name' is missing"),
        ({"defaultAction": "x", "archMap": [1]}, "not in the format of Docker's profiles"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path: Path, content: object, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        profile(tmp_path, content)


def ids_of(tmp_path: Path, *lines: str) -> tuple[str, str]:
    path = tmp_path / "ids"
    path.write_text("\n".join(lines))
    return str(path), str(path)


def test_users_of_a_container_are_nobody_elses(tmp_path: Path) -> None:
    files = ids_of(tmp_path, "someone:1:9", "containers:5000:9000", "fusevol:100000:3000", "x")
    first = free_range(1024, [], *files)
    second = free_range(1024, [first], *files)
    assert (first, second) == (IdRange(100000, 100000, 1024), IdRange(101024, 101024, 1024))
    with pytest.raises(NotFoundError, match="no 1024 free ids"):
        free_range(1024, [first, second], *files)
    assert free_range(1024, [second], *files) == first
    assert free_range(952, [first, second], *files).first_uid == 102048


def test_the_users_of_podman_do_where_there_are_no_others(tmp_path: Path) -> None:
    files = ids_of(tmp_path, "containers:5000:9000")
    assert free_range(9000, [], *files).first_uid == 5000
    with pytest.raises(NotFoundError):
        free_range(1024, [], str(tmp_path / "none"), files[1])


def test_userns_is_worded_as_with_podman() -> None:
    words = {"host": 0, "auto": 65536, "auto:size=2000": 2000}
    assert {word: parse_userns(word) for word in words} == words


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("executable file `/none` not found in $PATH: No such file or directory", 127),
        ("open executable: Permission denied", 126),
        ("open executable: Operation not permitted", 126),
        ('runc create failed: exec: "/none": stat /none: no such file or directory', 127),
        ('exec: "/etc/passwd": permission denied', 126),
        ("chdir `/etc/passwd`: Not a directory", 125),
        ("mount `/none` to `/x`: No such file or directory", 125),
        ("", 125),
    ],
)  # fmt: skip
def test_exit_codes_are_dockers(message: str, status: int) -> None:
    assert oci.RuntimeFailedError(message).status == status


def test_a_missing_runtime_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(oci, "_PLACES", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFoundError, match="install crun or runc: apt-get install crun"):
        oci.find_runtime()
    for name in ("runc", "crun"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
        assert oci.find_runtime() == str(tmp_path / name)
    assert oci.find_runtime("runc") == str(tmp_path / "runc")
