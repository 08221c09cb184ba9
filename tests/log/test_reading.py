"""What is read back of a real volume, from all files of its log, is what its clients did."""

import gzip
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fusevol.record.formats import ecs, juicefs, ocsf
from fusevol.record.record import EVENTS, decode
from tests.patience import PATIENCE_S
from tests.served import FUSEVOL, Served, assert_no_gap_in_numbers, fusevol, needs_root, serve

pytestmark = needs_root

_NAMES = (b"plain", b"caf\xe9", b"\x1b[31m\n\r\x07", b'") - OK <9.9>', "\u202e\U0001f600".encode())


def work(directory: Path, turn: int) -> None:
    for name in _NAMES:
        path = os.fsencode(directory) + b"/%d" % turn + name
        with open(path, "wb") as file:
            file.write(b"x" * 100)
        with open(path, "rb") as file:
            file.read()
        os.rename(path, path + b" moved")
        os.setxattr(path + b" moved", "user.a", b"1")
        os.symlink(name, path)
        os.readlink(path)
        with pytest.raises(OSError, match="No data available"):
            os.removexattr(path + b" moved", "user.b")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("reading"), "--name", "reading") as mount:
        log = mount.log
        work(mount.mountpoint, 1)
        rotate(mount, log.with_name("access.log.1"))
        work(mount.mountpoint, 2)
        older = log.with_name("access.log.2.gz")
        older.write_bytes(gzip.compress(log.with_name("access.log.1").read_bytes()))
        log.with_name("access.log.1").unlink()
        rotate(mount, log.with_name("access.log.1"))
        work(mount.mountpoint, 3)
        for turn in (1, 2, 3):
            mount.await_released(f"/{turn}plain")
        yield mount


def rotate(mount: Served, to: Path) -> None:
    mount.log.rename(to)
    fusevol("reload", "--logs", mount.mountpoint)


def show(*arguments: str | Path) -> bytes:
    return subprocess.run(
        [FUSEVOL, "log", "show", *arguments], capture_output=True, check=True, timeout=PATIENCE_S
    ).stdout


def test_all_files_of_a_mount(served: Served) -> None:
    shown = show("--mount", served.mountpoint, "--json")
    records = [json.loads(line) for line in shown.splitlines()]
    assert_no_gap_in_numbers(records)
    renamed = [record["path"] for record in records if record["op"] == "rename"]
    assert len(renamed) == 3 * len(_NAMES)
    assert len(shown) > served.log.stat().st_size
    assert show(served.log, "--json").startswith(shown)


@pytest.mark.parametrize("format_", [ecs, ocsf, juicefs], ids=lambda module: module.__name__)
def test_formats(served: Served, format_: ModuleType) -> None:
    native = [decode(line) for line in show(served.log, "--json").splitlines()]
    name = format_.__name__.rpartition(".")[2]
    lines = show(served.log, "--format", name).splitlines()
    assert [format_.decode(line) for line in lines[: len(native)]] == native


def test_stats_count_what_is_shown(served: Served) -> None:
    records = [json.loads(line) for line in show(served.log, "--json").splitlines()]
    expected = Counter(record["op"] for record in records if record["op"] not in EVENTS)
    stats = json.loads(fusevol("log", "stats", "--json", served.log).stdout)
    found = {group["op"]: group for group in stats["groups"]}
    assert {op: group["count"] for op, group in found.items()} == expected
    assert found["write"]["bytes_written"] == 3 * len(_NAMES) * 100
    assert found["read"]["bytes_read"] == 3 * len(_NAMES) * 100
    assert found["removexattr"]["errors"] == 3 * len(_NAMES)
