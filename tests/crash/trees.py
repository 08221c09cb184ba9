"""A volume held against its source: everything that stat(2), readlink(2) and read(2) tell."""

import os
import stat
from pathlib import Path
from typing import Final

from fusevol.inodes.table import FIRST_OWN_INO

_CHUNK: Final = 1 << 20
_SHOWN: Final = 20


def wrong_tree(source: Path, volume: Path) -> list[str]:
    """Return what the volume shows otherwise than the source has it."""
    wrong: list[str] = []
    for directory, names in _listings(os.fsencode(source)):
        relative = os.path.relpath(directory, os.fsencode(source))
        there = os.path.join(os.fsencode(volume), relative)
        shown = sorted(os.listdir(there))
        if shown != names:
            wrong.append(f"{relative!r}: {set(names) ^ set(shown)} on one side only")
        for name in names:
            wrong += _differences(os.path.join(directory, name), os.path.join(there, name))
            if len(wrong) > _SHOWN:
                return wrong
    return wrong


def _listings(root: bytes) -> "list[tuple[bytes, list[bytes]]]":
    return [(path, sorted(directories + files)) for path, directories, files in os.walk(root)]


def _differences(path: bytes, shown: bytes) -> list[str]:
    try:
        ours, theirs = _facts(path), _facts(shown)
    except OSError as error:
        return [f"{shown!r}: {error}"]
    if int(str(theirs["ino"])) >= FIRST_OWN_INO:
        # What is made right after a restart may get one (docs/restarts.md, limits).
        del ours["ino"]
    wrong = [f"{shown!r}: {fact} is {theirs[fact]!r}, and on the host {ours[fact]!r}"
             for fact in ours if ours[fact] != theirs.get(fact)]  # fmt: skip
    if not wrong and stat.S_ISREG(os.lstat(path).st_mode) and not _same_content(path, shown):
        wrong.append(f"{shown!r}: its content is not that on the host")
    return wrong


def _facts(path: bytes) -> dict[str, object]:
    status = os.lstat(path)
    attributes = os.listxattr(path, follow_symlinks=False)
    return {
        "mode": oct(status.st_mode), "owner": (status.st_uid, status.st_gid),
        "size": None if stat.S_ISDIR(status.st_mode) else status.st_size,
        "mtime": status.st_mtime_ns, "ino": status.st_ino, "links": status.st_nlink,
        "target": os.readlink(path) if stat.S_ISLNK(status.st_mode) else None,
        "attributes": {name: os.getxattr(path, name, follow_symlinks=False) for name in attributes},
    }  # fmt: skip


def _same_content(path: bytes, shown: bytes) -> bool:
    with open(path, "rb") as ours, open(shown, "rb") as theirs:
        while chunk := ours.read(_CHUNK):
            if theirs.read(_CHUNK) != chunk:
                return False
        return not theirs.read(1)
