"""Limits of the source's file system bind clients as they do on the host."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.acting import User, acting_as
from tests.mounted.mounting import Served, serving, workspace
from tests.served import needs_root

pytestmark = needs_root

_USER = User(61001, 61001)
_MEMBER = User(61002, 61002, (61100,))
_MIB = 1 << 20
_WHOLE = 64 * _MIB
_RESERVED_PERCENT = 30


@pytest.fixture(params=["all", "data"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A small file system of which a part is for root and for a group."""
    with workspace() as base:
        image, source, mountpoint = base / "image", base / "source", base / "volume"
        for path in (source, mountpoint):
            path.mkdir()
        with image.open("wb") as file:
            file.truncate(_WHOLE)
        _run("mke2fs", "-q", "-F", "-O", "^has_journal", "-m", str(_RESERVED_PERCENT), image)
        _run("mount", "-o", f"loop,resgid={_MEMBER.groups[0]}", image, source)
        try:
            source.chmod(0o777)
            with serving(source, mountpoint, base / "log", request.param) as mounted:
                yield mounted
        finally:
            _run("umount", source)


def _run(*words: str | Path) -> None:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(words, check=True, env=environment, capture_output=True)


def _fill(path: Path) -> int:
    """Write to a file until nothing more fits; return how much did."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(_MIB))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        return file.tell()


@pytest.mark.parametrize("who", [None, _MEMBER], ids=["root", "group"])
def test_reserved_blocks_are_for_some(served: Served, who: User | None) -> None:
    most = _WHOLE * (100 - _RESERVED_PERCENT) // 100
    by_user = acting_as(_USER, lambda: _fill(served.mountpoint / "user"))
    assert most // 2 < by_user < most
    more = served.mountpoint / "more"
    by_other = _fill(more) if who is None else acting_as(who, lambda: _fill(more))
    assert by_other > _WHOLE * _RESERVED_PERCENT // 100 // 2
