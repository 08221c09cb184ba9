"""The user of a container: user and group words, looked up in the container's own files."""

import os
from typing import Final, NamedTuple

from fusevol.errors import NotFoundError
from fusevol.linux.files import open_in_root

_FILE_MAX_BYTES: Final = 1 << 20
"""An image could hold files of any size."""


class ContainerUser(NamedTuple):
    """An identity in a container."""

    uid: int
    gid: int
    groups: list[int]
    home: str


def find_user(root_fd: int, word: str) -> ContainerUser:
    """Return the ids of `USER[:GROUP]`, names or numbers, by /etc/passwd and /etc/group.

    Nothing is root. A number need not be in the files; its group is 0 then, as with other engines.

    Args:
        root_fd: the container's root directory.
        word: what was asked for.

    Raises:
        NotFoundError: a name is in neither file.
    """
    name, _, group = (word or "0").partition(":")
    entry = next((e for e in _entries(root_fd, "/etc/passwd", 7) if name in (e[0], e[2])), None)
    if entry is None and not name.isdecimal():
        raise NotFoundError(f"the image has no user {name}; use a number, or add it to the image")
    uid = int(entry[2]) if entry else int(name)
    gid = int(entry[3]) if entry else 0
    groups = list(_entries(root_fd, "/etc/group", 4))
    if group:
        gid = _find_group(group, groups)
        extra: list[int] = []
    else:
        login = entry[0] if entry else ""
        extra = [int(e[2]) for e in groups if login and login in e[3].split(",")]
    return ContainerUser(uid, gid, extra, entry[5] if entry and entry[5] else "/")


def _find_group(word: str, groups: list[list[str]]) -> int:
    for entry in groups:
        if word in (entry[0], entry[2]):
            return int(entry[2])
    if word.isdecimal():
        return int(word)
    raise NotFoundError(f"the image has no group {word}; use a number, or add it to the image")


def _entries(root_fd: int, path: str, fields: int) -> list[list[str]]:
    """Return the lines of a file of colon-separated fields that are what they should be."""
    try:
        # A FIFO in an image must not hold us up.
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return []
    with open(fd, "rb") as file:
        try:
            text = (file.read(_FILE_MAX_BYTES) or b"").decode(errors="surrogateescape")
        except OSError:
            return []
    lines = [line.split(":") for line in text.splitlines()]
    return [line for line in lines if len(line) == fields and line[2].isdecimal()
            and (fields < 7 or line[3].isdecimal())]  # fmt: skip
