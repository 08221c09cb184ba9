"""Log files that logrotate has compressed."""

import bz2
import contextlib
import gzip
import importlib
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from fusevol.errors import UnsupportedError

Read = Callable[[int], bytes]
"""Returns up to so many bytes, none at the end."""


class DamagedError(ValueError):
    """Compressed data that ends early or is not valid."""


def zstandard(why_not: str) -> Any:
    """Return the module for zstd.

    Raises:
        UnsupportedError: it is not installed; `why_not` says what that means and what to do.
    """
    try:
        return importlib.import_module("zstandard")
    except ImportError:
        raise UnsupportedError(why_not) from None


def _open_zstd(path: str) -> Any:
    module = zstandard(
        "cannot read files compressed by zstd: the Python module zstandard is missing; install it, "
        "or use: zstdcat FILE | fusevol log show -"
    )
    # A file may be several frames one after the other, as with gzip.
    return module.ZstdDecompressor().stream_reader(open(path, "rb"), read_across_frames=True)


_OPENERS: Final[dict[str, Callable[[str], Any]]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}

_DAMAGES: Final = (OSError, EOFError, lzma.LZMAError, zlib.error)


def is_compressed(name: str) -> bool:
    """Return whether a file is compressed, by its name."""
    return name.endswith(tuple(_OPENERS))


@contextlib.contextmanager
def decompressed(name: str, path: str) -> Iterator[Read]:
    """Open the file at `path`, whose name is or was `name`, and give out what reads it.

    The reader raises DamagedError, and OSError where the file itself cannot be read.

    Raises:
        UnsupportedError: there is no module for this compression.
        OSError: the file cannot be opened.
    """
    opener = next(opener for suffix, opener in _OPENERS.items() if name.endswith(suffix))
    with opener(path) as stream:

        def read(size: int) -> bytes:
            try:
                block: bytes = stream.read1(size)
            except _damages() as error:
                # bz2 and gzip report damage by an OSError that no system call has made.
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise DamagedError(f"damaged: {error}") from error
            return block

        yield read


def _damages() -> tuple[type[Exception], ...]:
    module: Any = sys.modules.get("zstandard")
    return (*_DAMAGES, module.ZstdError) if module else _DAMAGES
