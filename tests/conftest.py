"""Rules for every run: no silent pass without FUSE, and no mount outlives its test module."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("fusevol", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# How long an example takes says how busy the machine is.
settings.load_profile("fusevol")


class FuseMount(NamedTuple):
    mount_id: int
    mount_point: bytes


def fuse_mounts(below: Path) -> set[FuseMount]:
    """The FUSE mounts below a folder, each with its id, as paths can be mounted twice."""
    mounts = set()
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        file_system = fields[fields.index(b"-") + 1]
        if file_system.startswith(b"fuse") and file_system != b"fusectl":
            path = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), fields[4])
            if path.startswith(os.fsencode(below) + b"/"):
                mounts.add(FuseMount(int(fields[0]), path))
    return mounts


def pytest_sessionstart() -> None:
    # A run that skips whatever mounts would look like one that passed.
    if (os.environ.get("CI") or os.geteuid() == 0) and not Path("/dev/fuse").exists():
        pytest.exit("/dev/fuse is missing: load the kernel's fuse module (modprobe fuse)", 1)


@pytest.fixture(scope="module", autouse=True)
def _no_leftover_mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # Only what this run made: others may mount and unmount on the machine meanwhile.
    ours = tmp_path_factory.getbasetemp().resolve()
    before = fuse_mounts(ours)
    yield
    leftover = fuse_mounts(ours) - before
    # The newest first: mounts can stand on top of each other.
    for mount in sorted(leftover, reverse=True):
        subprocess.run(["umount", "--lazy", mount.mount_point], check=False)
    if leftover:
        paths = ", ".join(sorted(os.fsdecode(mount.mount_point) for mount in leftover))
        pytest.fail(f"still mounted after the last test of this module: {paths}", pytrace=False)
