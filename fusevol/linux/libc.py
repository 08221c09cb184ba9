"""The C library, and the one way its failures become OSError."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
"""Calls release the GIL: for calls that may block."""

quick_libc = ctypes.PyDLL(None, use_errno=True)
"""Calls keep the GIL: for calls that never block and cost less than letting go of it."""


def checked(result: int, subject: str | bytes | None = None) -> int:
    """Return `result`, or raise OSError with errno and the `subject` of the call if it is -1."""
    if result == -1:
        number = ctypes.get_errno()
        if subject is None:
            raise OSError(number, os.strerror(number))
        raise OSError(number, os.strerror(number), subject)
    return result
