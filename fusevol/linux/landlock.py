"""Give up, for this thread and all it starts, rights that the user has: landlock(7)."""

import contextlib
import ctypes
import os
import struct
from typing import Final

from fusevol.linux.libc import checked, libc

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446

_VERSION: Final = 1 << 0
_PATH_BENEATH: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38

_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_REMOVE_DIR: Final = 1 << 4
_REMOVE_FILE: Final = 1 << 5
_ALL_MAKES: Final = 0b1111111 << 6
_MAKE_DIR: Final = 1 << 7
_MAKE_REG: Final = 1 << 8
_TRUNCATE: Final = 1 << 14
_TCP: Final = 0b11

_GIVEN_UP: Final = _EXECUTE | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _ALL_MAKES
_KEPT: Final = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _TRUNCATE
_TRUNCATE_VERSION: Final = 3
_TCP_VERSION: Final = 4


def forbid_writing(*, except_below: str) -> bool:
    """Let this thread, and all that it starts, write no file from now on, nor use TCP.

    Files that are open stay as they are. Nothing is executed any more, either.

    Args:
        except_below: a directory in which files and directories may be made, written and removed.

    Returns:
        Whether the kernel can do that (Linux 5.13, with Landlock enabled).

    Raises:
        OSError: the directory cannot be opened.
    """
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:
        return False
    given_up = _GIVEN_UP | (_TRUNCATE if version >= _TRUNCATE_VERSION else 0)
    rights = struct.pack("QQ", given_up, _TCP)
    # Kernels that know nothing of TCP take the first of both words.
    size = len(rights) if version >= _TCP_VERSION else len(rights) // 2
    with contextlib.ExitStack() as stack:
        ruleset = checked(libc.syscall(_CREATE_RULESET, rights, ctypes.c_size_t(size), 0))
        stack.callback(os.close, ruleset)
        directory = os.open(except_below, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, directory)
        rule = struct.pack("=Qi", given_up & _KEPT, directory)
        checked(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
        checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        checked(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    return True
