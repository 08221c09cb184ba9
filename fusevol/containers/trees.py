"""Removing directories that somebody else has filled: of any depth, and only what is in them."""

import contextlib
import errno
import os
import stat
from typing import Final

_LOOKS: Final = 100
"""How often what was emptied may have got something again."""


def remove_tree(path: "str | bytes | os.PathLike[str]") -> None:
    """Remove a directory and all that is in it; none there is no error, as for what goes meanwhile.

    No name is looked up further than in the directory it stands in, and no depth is too much: what
    is below moves up (a container can nest deeper than paths, descriptors and the stack reach).

    Raises:
        OSError: something cannot be removed.
    """
    for looks_left in reversed(range(_LOOKS)):
        try:
            _remove(path)
        except OSError as error:
            # Another who removes the tree may have moved something to where a directory was empty.
            if error.errno != errno.ENOTEMPTY or not looks_left:
                raise
        else:
            return


def _remove(path: "str | bytes | os.PathLike[str]") -> None:
    try:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        number = 0
        while directories := _remove_files(top):
            for name in directories:
                number = _remove_directory(top, name, number)
    finally:
        os.close(top)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)


def _remove_directory(top: int, name: str, number: int) -> int:
    """Remove a directory in `top`; move directories in it to `top`, under numbers from `number`."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    except FileNotFoundError:
        return number
    try:
        for below in _remove_files(fd):
            number = _move(below, fd, top, number)
    finally:
        os.close(fd)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=top)
    return number


def _move(name: str, source: int, target: int, number: int) -> int:
    """Move a directory to the first free number from `number` on; return that number."""
    while True:
        try:
            os.rename(name, str(number), src_dir_fd=source, dst_dir_fd=target)
        except FileNotFoundError:
            return number
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            number += 1
        else:
            return number


def _remove_files(fd: int) -> list[str]:
    """Remove what is not a directory in the directory `fd`; return the names of directories."""
    directories = []
    for name in os.listdir(fd):
        try:
            if stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
                directories.append(name)
            else:
                os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            continue
    return directories
