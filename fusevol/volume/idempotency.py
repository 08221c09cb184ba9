"""Effects that must not take place twice, although a request may come twice.

A worker may die between an effect and its reply; the kernel then sends the request again, to the
successor (`recovery.journal` shows all phases of a request). Before the effect each function here
notes what is there; afterwards, in the successor, it compares. What is left is the time between the
effect and the look: if in the meantime somebody on the host, not through the volume, undoes or
repeats it, the answer may be wrong by that.
"""

import os
from typing import Final

from fusevol.linux.files import descriptor_path
from fusevol.recovery.journal import INTENDED, STARTED, Entry

_ABSENT: Final = 1
_PRESENT: Final = 2


def made(entry: Entry, dir_fd: int, name: bytes) -> bool:
    """Return whether this request has made `name` already."""
    phase = entry.phase
    if phase == STARTED:
        entry.intend(_PRESENT if _exists(dir_fd, name) else _ABSENT)
        return False
    if phase == INTENDED:
        before, _ = entry.evidence
        return before == _ABSENT and _exists(dir_fd, name)
    return True


def took_away(entry: Entry, found: os.stat_result | None) -> bool:
    """Return whether this request has removed the name under which `found` is now."""
    now = (0, 0) if found is None else (found.st_ino, found.st_dev)
    phase = entry.phase
    if phase == STARTED:
        entry.intend(*now)
        return False
    if phase == INTENDED:
        before = entry.evidence
        return before != (0, 0) and now != before
    return True


def moved(entry: Entry, dir_fd: int, name: bytes, new_dir_fd: int, new_name: bytes) -> bool:
    """Return whether this request has moved what was `name` to `new_name`."""
    if entry.is_done:
        return True
    now = _identity(dir_fd, name)
    if entry.phase == STARTED:
        entry.intend(*now)
        return False
    before = entry.evidence
    return before != (0, 0) and now != before and _identity(new_dir_fd, new_name) == before


def appended(entry: Entry, fd: int, data: bytes) -> int:
    """Return how much of `data` this request has appended already."""
    phase = entry.phase
    if phase == STARTED:
        entry.intend(os.fstat(fd).st_size)
        return 0
    if phase != INTENDED:
        return len(data)
    before, _ = entry.evidence
    length = min(len(data), os.fstat(fd).st_size - before)
    if length <= 0 or _read(fd, before, length) != data[:length]:
        return 0
    return length


def dropped_attribute(entry: Entry, path: str, name: bytes) -> bool:
    """Return whether this request has removed the extended attribute `name`."""
    if entry.is_done:
        return True
    present = _has_attribute(path, name)
    if entry.phase == STARTED:
        entry.intend(_PRESENT if present else _ABSENT)
        return False
    before, _ = entry.evidence
    return before == _PRESENT and not present


def _exists(dir_fd: int, name: bytes) -> bool:
    return _identity(dir_fd, name) != (0, 0)


def _identity(dir_fd: int, name: bytes) -> tuple[int, int]:
    try:
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except OSError:
        return 0, 0
    return status.st_ino, status.st_dev


def _has_attribute(path: str, name: bytes) -> bool:
    try:
        os.getxattr(path, name)
    except OSError:
        return False
    return True


def _read(fd: int, offset: int, length: int) -> bytes:
    readable = os.open(descriptor_path(fd), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(readable, length, offset)
    finally:
        os.close(readable)
