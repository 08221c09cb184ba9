"""What is written to an access log, how, and what becomes of it.

`options.table` has the words that say so; `options.log_words` makes these of them.
"""

import enum
from typing import Final

import msgspec

from fusevol.errors import UsageError


class LogFormat(enum.StrEnum):
    """How a record is written to the file."""

    JSON = "json"
    ECS = "ecs"
    OCSF = "ocsf"
    JUICEFS = "juicefs"
    TEXT = "text"


class Compression(enum.StrEnum):
    """What becomes of a rotated file."""

    NONE = "none"
    ZSTD = "zstd"


class LogOptions(msgspec.Struct, frozen=True):
    """The access log of one mount.

    Attributes:
        format: of the file.
        sinks: where records go besides, each as `[FORMAT@]TARGET`: see `logagent.sinks`.
        include, exclude: rules for the records to keep, and to leave out: see
            `recording.record_filter`.
        success, failure: operations to record when they succeed, and when they fail: the same.
        coalesce: seconds that reads or writes of one handle may be gathered in one record; 0 for
            one record each.
        chain: each record has a keyed hash over itself and the one before.
        rotate_size: bytes from which on a file is rotated; 0 for never.
        rotate_age: seconds after which a file is rotated; 0 for never.
        compress: what becomes of rotated files.
        keep_files: how many rotated files are kept; 0 for all.
        keep_age: seconds that a rotated file is kept; 0 for ever.
        quota: bytes that all files of the log may have together; 0 for any number.
        space_warn: bytes free on the log's file system below which fusevol warns; 0 for never.
        space_act: bytes free below which the oldest rotated files are removed; 0 for never.
    """

    format: LogFormat = LogFormat.JSON
    sinks: tuple[str, ...] = ()
    include: str = ""
    exclude: str = ""
    success: str = ""
    failure: str = ""
    coalesce: float = 0.0
    chain: bool = False
    rotate_size: int = 0
    rotate_age: float = 0.0
    compress: Compression = Compression.NONE
    keep_files: int = 0
    keep_age: float = 0.0
    quota: int = 0
    space_warn: int = 0
    space_act: int = 0

    @property
    def needs_agent(self) -> bool:
        """Whether there is something to do besides writing the file."""
        return bool(self.sinks or self.rotates or self.space_warn)

    @property
    def rotates(self) -> bool:
        """Whether fusevol rotates the file itself."""
        return bool(self.rotate_size or self.rotate_age or self.quota)

    def check(self, log: str) -> None:
        """See whether these make sense together.

        Args:
            log: where the records go: a file, "-" or "none".

        Raises:
            UsageError: they do not, and why.
        """
        of_rotated = ("compress", "keep_files", "keep_age", "space_act")
        idle = [key for key in of_rotated if getattr(self, key) != getattr(LogOptions(), key)]
        if idle and not self.rotates:
            raise UsageError(
                f"{idle[0]} is about files that fusevol has rotated; give rotate_size, rotate_age "
                f"or quota, too"
            )
        if self.chain and self.format is not LogFormat.JSON:
            raise UsageError(
                f"chain requires format=json, as {self.format} has no place for a hash"
            )
        if self.chain and log in _NO_FILES:
            raise UsageError(f"chain requires a file for the log, not {log}")
        if log in _NO_FILES and self.needs_agent:
            key = next(key for key in _OF_FILES if getattr(self, key))
            raise UsageError(f"{key} takes a log that is a file, and log={log} is none")


_NO_FILES: Final = ("-", "none")
_OF_FILES: Final = ("sinks", "rotate_size", "rotate_age", "quota", "space_warn")
