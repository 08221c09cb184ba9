"""What becomes of rotated files: compressed, kept for a while, removed when room is needed.

The ladder for a disk that fills up: below `space_warn` there is a warning, below `space_act` the
oldest rotated files go, and when the disk is full nevertheless `on_log_failure` decides.

Only files that fusevol has rotated itself are touched: another name beside the log may be the log
of another volume.
"""

import logging
import os
import time
from collections.abc import Callable
from typing import Any, Final

from fusevol.logagent.rotation import is_in_use
from fusevol.logs.compression import zstandard
from fusevol.logs.log_files import rotated_by_fusevol
from fusevol.options.log import Compression, LogOptions

_LEVEL: Final = 3
_SUFFIX: Final = ".zst"
_BLOCK_BYTES: Final = 1 << 20
_RELIEF: Final = 1.05
"""How much more than the limit has to be free until a shortage counts as over."""

logger = logging.getLogger(__name__)


def compressor() -> Any:
    """Return the module that compresses.

    Raises:
        UnsupportedError: it is not installed.
    """
    return zstandard(
        "compress=zstd requires the Python module zstandard; pip install 'fusevol[zstd]'"
    )


class Retention:
    """Looks after the rotated files of one log.

    Attributes:
        free: bytes free on the file system of the log, at the last look.
        files: how many rotated files there are, and `total` bytes with the log itself.
    """

    def __init__(
        self, path: str, options: LogOptions, about_to_remove: Callable[[str], None] | None = None
    ) -> None:
        """Prepare; `about_to_remove` is called with each file first, and keeps it by raising."""
        self._path = os.path.realpath(path)
        self._options = options
        self._about_to_remove = about_to_remove
        self._is_short = False
        self._is_at_end = False
        self.free = 0
        self.files = 0
        self.total = 0
        _remove_unfinished(self._path)

    def go_on(self) -> None:
        """Do what there is to do now.

        Raises:
            OSError: that fails.
            FusevolError: `about_to_remove` raised it.
        """
        if self._options.compress is Compression.ZSTD:
            self._compress_all()
        self._remove_old()
        self._remove_above_quota()
        self._make_room()
        files = rotated_by_fusevol(self._path)
        self.files, self.total = len(files), _size(self._path) + sum(map(_size, files))

    def _compress_all(self) -> None:
        for path in rotated_by_fusevol(self._path):
            if not path.endswith(_SUFFIX) and not is_in_use(path):
                _compress(path)

    def _remove_old(self) -> None:
        options = self._options
        files = rotated_by_fusevol(self._path)
        if options.keep_files:
            for path in files[: -options.keep_files]:
                self._remove(path)
            files = files[-options.keep_files :]
        if options.keep_age:
            for path in files:
                if time.time() - os.stat(path).st_mtime > options.keep_age:
                    self._remove(path)

    def _remove_above_quota(self) -> None:
        if not self._options.quota:
            return
        files = rotated_by_fusevol(self._path)
        total = _size(self._path) + sum(map(_size, files))
        for path in files:
            if total <= self._options.quota:
                return
            total -= _size(path)
            self._remove(path)

    def _make_room(self) -> None:
        folder = os.path.dirname(self._path)
        self.free = _free(folder)
        options = self._options
        if options.space_warn:
            self._tell_of_shortage(folder)
        if not options.space_act:
            return
        files = rotated_by_fusevol(self._path)
        for path in files:
            if self.free >= options.space_act:
                break
            if self._remove(path):
                logger.warning(
                    "access log %s: only %d bytes were free (space_act=%d): removed %s",
                    self._path, self.free, options.space_act, os.path.basename(path),
                )  # fmt: skip
            self.free = _free(folder)
        is_at_end = self.free < options.space_act
        if is_at_end and not self._is_at_end:
            logger.error(
                "access log %s: only %d bytes are free, and it has no rotated file left to remove; "
                "when the disk is full, on_log_failure applies",
                self._path, self.free,
            )  # fmt: skip
        self._is_at_end = is_at_end

    def _tell_of_shortage(self, folder: str) -> None:
        if self.free < self._options.space_warn and not self._is_short:
            self._is_short = True
            logger.warning(
                "access log %s: only %d bytes are free in %s (space_warn=%d); free up space",
                self._path, self.free, folder, self._options.space_warn,
            )  # fmt: skip
        elif self._is_short and self.free > self._options.space_warn * _RELIEF:
            self._is_short = False
            logger.warning("access log %s: %d bytes are free again", self._path, self.free)

    def _remove(self, path: str) -> bool:
        """Remove a file unless it is being written; return whether that was done."""
        if is_in_use(path):
            return False
        if self._about_to_remove is not None:
            self._about_to_remove(path)
        os.unlink(path)
        return True


def _free(folder: str) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _unfinished(path: str) -> str:
    """Return the name of a file that is just being compressed: no reader takes it for a log."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}{_SUFFIX}.part")


def _remove_unfinished(log: str) -> None:
    for path in rotated_by_fusevol(log):
        try:
            os.unlink(_unfinished(path))
        except FileNotFoundError:
            pass


def _compress(path: str) -> None:
    """Replace a file by its compressed form; it is on the disk before the file goes."""
    temporary = _unfinished(path)
    status = os.stat(path)
    target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(target, "wb") as output, open(path, "rb") as source:
            os.fchown(target, status.st_uid, status.st_gid)
            os.fchmod(target, status.st_mode & 0o777)
            compressor().ZstdCompressor(level=_LEVEL, write_checksum=True).copy_stream(
                source, output, size=status.st_size, read_size=_BLOCK_BYTES
            )
            output.flush()
            os.fsync(target)
        os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.rename(temporary, path + _SUFFIX)
    except BaseException:
        os.unlink(temporary)
        raise
    os.unlink(path)
