"""The file itself may be in any format, also in several: every reader takes it as one log."""

import itertools
import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

from fusevol.logs.follow import follow
from fusevol.logs.reader import Skipped, last_record
from fusevol.options.log import LogFormat
from fusevol.record.formats import format_of
from tests.served import fusevol, needs_root, serve

pytestmark = needs_root

NAMES: Final = (
    b"plain",
    b"a b",
    b"caf\xe9",
    b"\x1b[31m\n\r\x07",
    b'") - OK <9.9>',
    b"path=x uid=0",
)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("formats")
    for format_ in LogFormat:
        with serve(directory, "--name", "mixed", "-o", f"format={format_}") as mount:
            for name in NAMES:
                path = os.fsencode(mount.mountpoint / str(format_)) + name
                with open(path, "wb") as file:
                    file.write(b"x" * 10)
                os.rename(path, path + b" moved")
    return directory / "access.log"


def records(*words: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in fusevol("log", *words).stdout.splitlines()]


def test_every_reader_takes_every_format(log: Path) -> None:
    lines = log.read_bytes().splitlines()
    assert {format_of(line) for line in lines} == set(LogFormat)
    shown = records("show", "--json", log)
    assert [one["seq"] for one in shown] == list(range(1, len(lines) + 1))
    assert records("tail", "-n", "all", "--json", log) == shown
    assert records("query", "SELECT seq, path FROM log", "--json", log) == [
        {"seq": one["seq"], "path": one.get("path")} for one in shown
    ]
    moved = [one["path"] for one in shown if one["op"] == "rename"]
    assert len(moved) == len(set(moved)) == len(NAMES) * len(LogFormat)
    [stats] = records("stats", "--json", "--op", "rename", log)
    assert stats["count"] == len(moved)
    last = last_record(str(log))
    assert last is not None
    assert (last.op, last.seq) == ("unmount", len(lines))
    followed = follow(str(log), None, lambda _record: True, Skipped())
    assert [one.seq for _line, one in itertools.islice(followed, len(lines))] == [
        one["seq"] for one in shown
    ]
    assert fusevol("log", "show", log).stderr == ""
