"""The filters of LoggedFS mean the same here: both record one work, and tell the same of it."""

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from fusevol.errors import UsageError
from fusevol.options.log import LogOptions
from fusevol.options.log_words import changed
from fusevol.recording.loggedfs import translate
from fusevol.recording.record_filter import check
from tests.mounted.acting import User, acting_as
from tests.mounted.mounting import workspace
from tests.patience import PATIENCE_S
from tests.served import Record, fusevol, is_mounted, needs_root, serve, wait_until

_EXAMPLE = Path("/usr/share/doc/loggedfs/examples/loggedfs.xml")
_SMALL = """\
<loggedFS logEnabled="true" printProcessName="true"><includes>
  <include extension="\\.(txt|d)$" uid="*" action=".*" retname="SUCCESS"/>
  <include extension=".*" uid="1000" action="unlink|mkdir|^mk" retname=".*"/>
</includes><excludes>
  <exclude extension="/b's, [x]\\.txt$" uid="0" action="rename" retname=".*"/>
  <exclude extension="second" uid="*" action="link" retname=".*"/>
</excludes></loggedFS>
"""
_LINE = re.compile(
    r"\[default\] (hard link from|symlink from|[a-z]+) (/.*?)"
    r"(?: to .*| [0-7]+(?: .*)?)? \{(SUCCESS|FAILURE)\} \[ pid = \d+ .* uid = (\d+) \]$"
)
_ANY = '<include extension="" uid="*" action="" retname=""/>'
_COMPARED = frozenset(
    (
        "mknod",
        "mkfifo",
        "mkdir",
        "unlink",
        "rmdir",
        "symlink",
        "rename",
        "link",
        "chmod",
        "truncate",
    )
)

Told = tuple[str, str, str, int]
"""Action, path, outcome, uid."""


@contextmanager
def _loggedfs(directory: Path, config: Path) -> Iterator[Path]:
    """LoggedFS over an empty directory inside the block."""
    log = directory / "loggedfs.log"
    place = directory / "logged"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    process = subprocess.Popen(
        ["loggedfs", "-f", "-p", "-l", log, "-c", config, place],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: is_mounted(place), "mount of LoggedFS")
        yield place
    finally:
        subprocess.run(["fusermount3", "-u", place], check=False, timeout=PATIENCE_S)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _work(place: Path) -> None:
    for uid in (0, 1000):
        acting_as(User(uid, uid), partial(_use, place / f"of-{uid}.d"))


def _use(place: Path) -> None:
    place.mkdir()
    (place / "a.txt").touch()
    for old, new in pairwise(("a.txt", "b's, [x].txt", "c.bin", "d.txt")):
        (place / old).rename(place / new)
    for new in ("first.txt", "second.txt", "third"):
        os.link(place / "d.txt", place / new)
    (place / "soft.txt").symlink_to("d.txt")
    (place / "d.txt").chmod(0o640)
    (place / "third").chmod(0o644)
    os.truncate(place / "d.txt", 5)
    os.mkfifo(place / "pipe")
    (place / "full/inside.d").mkdir(parents=True)
    for name in ("full", "full/inside.d"):
        with suppress(OSError):
            (place / name).rmdir()
    (place / "first.txt").unlink()
    (place / "pipe").unlink()


def _told_by_loggedfs(log: Path, place: Path) -> set[Told]:
    actions = {"hard link from": "link", "symlink from": "symlink"}
    told = set()
    for line in log.read_text().splitlines():
        if found := _LINE.search(line):
            action = actions.get(found[1], found[1])
            path = "/" + os.path.relpath(found[2], place)
            told.add((action, path, found[3], int(found[4])))
    return {one for one in told if one[0] in _COMPARED}


def _told_by_fusevol(records: list[Record]) -> set[Told]:
    told = set()
    for record in records:
        action = {"create": "mknod", "setattr": "truncate" if "size" in record else "chmod"}.get(
            record["op"], record["op"]
        )
        if action == "mknod" and stat.S_ISFIFO(int(record["mode"], 8)):
            action = "mkfifo"
        path = record["to"] if action == "link" else record.get("path", "")
        outcome = "SUCCESS" if record["result"] == "ok" else "FAILURE"
        if action in _COMPARED:
            told.add((action, path, outcome, record["uid"]))
    return told


@needs_root
@pytest.mark.skipif(shutil.which("loggedfs") is None, reason="takes LoggedFS")
@pytest.mark.parametrize("config", [_SMALL, _EXAMPLE], ids=["small", "example"])
def test_both_record_the_same(config: str | Path) -> None:
    with workspace() as directory:
        path = directory / "loggedfs.xml"
        path.write_text(config) if isinstance(config, str) else shutil.copy(config, path)
        with _loggedfs(directory, path) as place:
            _work(place)
        option = fusevol("log", "import-filter", "--as-option", path).stdout.rstrip("\n")
        (directory / "source").mkdir(mode=0o777)
        (directory / "source").chmod(0o777)
        with serve(directory, "-o", option) as served:
            _work(served.mountpoint)
        theirs = _told_by_loggedfs(directory / "loggedfs.log", place)
        ours = _told_by_fusevol(served.records())
    assert ours == theirs
    assert len(ours) > 15
    actions = {one[0] for one in ours}
    assert actions >= {"rename", "link", "mkdir", "unlink", "mkfifo"}


@pytest.mark.parametrize(
    ("rules", "options"),
    [
        ("", {}),
        ('<exclude extension=".*" uid="*" action="read" retname=".*"/>', {}),
        (
            '<include extension=".*" uid="*" action="^write$" retname="FAIL"/>',
            {"include": "op=write result=failed"},
        ),
        (
            '<include extension="^/mnt/a b" uid="5" action="rename" retname=".*"/>',
            {"include": "op=rename path~='^/a b' uid=5"},
        ),
        (
            '<include extension=".*" uid="*" action="nothing" retname=".*"/>',
            {"success": "none", "failure": "none"},
        ),
        (_ANY.replace('""', '"x"', 1) + _ANY, {}),
    ],
)
def test_what_a_configuration_means(rules: str, options: dict[str, str]) -> None:
    found = translate(f"<loggedFS>{rules}</loggedFS>".encode(), "/mnt")
    assert found.options == options
    logging = LogOptions()
    for key, value in found.options.items():
        logging = changed(logging, key, value)
    check(logging)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nonsense", "invalid configuration of LoggedFS"),
        ("<html/>", "begins with <html>"),
        ('<loggedFS><include uid="*"/></loggedFS>', "missing extension, action, retname"),
        (
            '<loggedFS><include extension="(" uid="*" action="read" retname=""/></loggedFS>',
            "expression '[(]'",
        ),
        (
            '<loggedFS><include extension="" uid="me" action="" retname=""/></loggedFS>',
            "uid='me' is neither",
        ),
    ],
)
def test_what_is_none_is_refused(content: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        translate(content.encode())


def test_where_it_is_not_quite_the_same_is_told(tmp_path: Path) -> None:
    path = tmp_path / "loggedfs.xml"
    path.write_text(
        '<loggedFS><include extension="^/x" uid="*" action="chmod" retname=".*"/></loggedFS>'
    )
    done = fusevol("log", "import-filter", path)
    assert done.stdout == "include=op=setattr path~=^/x\n"
    assert "setattr covers all of chmod, chown, truncate" in done.stderr
    assert "--mountpoint" in done.stderr
