"""What a mount is made of, and where its files are."""

import os
from collections.abc import Collection
from typing import Final

import msgspec

from fusevol.linux.mounts import (
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_RDONLY,
    MS_RELATIME,
    MS_STRICTATIME,
)
from fusevol.model import OnLogFailure, RecordLevel
from fusevol.options.log import LogOptions
from fusevol.options.table import FLAGS

DEFAULT_FLAGS: Final = MS_NOSUID | MS_NODEV

_FORBIDDING: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOSYMFOLLOW
_ATIME: Final = MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME


class MountConfig(msgspec.Struct):
    """One mount.

    Attributes:
        source: absolute path of the directory or file to serve.
        mountpoint: absolute path where it appears.
        name: the volume's name in the log.
        log: file that gets the access records, "-" for stdout, "none" for no log.
        flags: flags of mount(2).
        allowed: which of the flags noexec and nosymfollow were cleared expressly.
        allow_other: users other than the one who mounts may use it.
        subpath: what of the source is served, relative to it; empty for all of it.
        deadline: seconds after which an operation fails that the source has not answered; 0 for
            never.
        strict: at level `all` the kernel asks for attributes of directories each time.
        logging: what is written to the log, how, and what becomes of it.
    """

    source: str
    mountpoint: str
    name: str
    log: str
    level: RecordLevel = RecordLevel.ALL
    on_log_failure: OnLogFailure = OnLogFailure.CONTINUE
    flags: int = DEFAULT_FLAGS
    allowed: int = 0
    allow_other: bool = True
    subpath: str = ""
    deadline: float = 0.0
    strict: bool = False
    logging: LogOptions = LogOptions()

    @property
    def served_path(self) -> str:
        """The directory or file that is the root of the mount."""
        return os.path.join(self.source, self.subpath) if self.subpath else self.source

    @property
    def read_only(self) -> bool:
        """Whether the kernel refuses changes through this mount."""
        return bool(self.flags & MS_RDONLY)

    @property
    def atime_flags(self) -> int:
        """Those of the flags that say when times of access are kept; 0 for as the source does."""
        return self.flags & _ATIME


def flag_words(flags: int) -> list[str]:
    """Return the options that set `flags` of mount(2)."""
    return [word for word, (flag, on) in FLAGS.items() if on and flags & flag]


def flags_in(words: Collection[str]) -> int:
    """Return the flags of mount(2) that `words`, those of a line of mountinfo, stand for."""
    found = 0
    for word in words:
        flag, on = FLAGS.get(word, (0, False))
        found |= flag if on else 0
    return found if found & (MS_NOATIME | MS_RELATIME) else found | MS_STRICTATIME


def source_flags(config: MountConfig, source: int, below: Collection[int]) -> int:
    """Return the flags that a mount gets besides its own: what its source's mounts have.

    A mount has one set of flags. So what one file system below the source forbids is forbidden in
    all of the volume; but `exec` and `symfollow`, said expressly, go for all but the source itself.

    Args:
        config: what was asked for.
        source: flags of the mount that the source is on.
        below: flags of each mount below it.
    """
    flags = source & (_FORBIDDING | MS_RDONLY)
    if not config.atime_flags:
        flags |= source & _ATIME
    for other in below:
        flags |= other & _FORBIDDING & ~config.allowed
    return flags


NO_LOG: Final = "none"
STDOUT_LOG: Final = "-"
"""Values of --log that are not files."""


def runtime_directory() -> str:
    """Return where sockets and what is served now stand; empty again after a reboot."""
    if directory := os.environ.get("FUSEVOL_RUNTIME_DIRECTORY"):
        return directory
    if os.geteuid() == 0:
        return "/run/fusevol"
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(runtime, "fusevol")
    return f"/tmp/fusevol-{os.geteuid()}"


def state_directory() -> str:
    """Return where volumes and containers are kept."""
    return _directory("FUSEVOL_STATE_DIRECTORY", "/var/lib/fusevol")


def log_directory() -> str:
    """Return where access logs go unless a mount or volume says otherwise."""
    return _directory("FUSEVOL_LOG_DIRECTORY", "/var/log/fusevol")


def default_log(name: str) -> str:
    """Return where the records of a mount go by default, given its name."""
    return os.path.join(log_directory(), name.strip("/").replace("/", "-") + ".log")


def _directory(variable: str, of_root: str) -> str:
    if directory := os.environ.get(variable):
        return directory
    if os.geteuid() == 0:
        return of_root
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "fusevol")
