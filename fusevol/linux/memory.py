"""The C library's heap (mallopt(3))."""

import ctypes
from typing import Final

from fusevol.linux.libc import quick_libc

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGE: Final = 64 << 20

_malloc = quick_libc.malloc
_malloc.restype = ctypes.c_void_p
_malloc.argtypes = (ctypes.c_size_t,)
_free = quick_libc.free
_free.argtypes = (ctypes.c_void_p,)


def keep_large_blocks() -> None:
    """Take blocks of a few MiB from the heap, and give nothing of it back to the kernel."""
    quick_libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
    quick_libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)


def touch_next_block(size: int) -> None:
    """Have memory behind the next block of `size` bytes, so that using it is no page fault."""
    block = _malloc(size)
    if block:
        ctypes.memset(block, 0, size)
        _free(block)
