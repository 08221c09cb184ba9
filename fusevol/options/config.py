"""What a mount is made of, and the words after -o that say so."""

import os
import re
from collections.abc import Collection
from typing import Final

import msgspec

from fusevol.errors import UnsupportedError, UsageError
from fusevol.linux.mounts import (
    MS_LAZYTIME,
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
from fusevol.options import log as log_options
from fusevol.options.log import LogOptions

_FLAGS: Final[dict[str, tuple[int, bool]]] = {
    "ro": (MS_RDONLY, True),
    "rw": (MS_RDONLY, False),
    "nosuid": (MS_NOSUID, True),
    "suid": (MS_NOSUID, False),
    "nodev": (MS_NODEV, True),
    "dev": (MS_NODEV, False),
    "noexec": (MS_NOEXEC, True),
    "exec": (MS_NOEXEC, False),
    "nosymfollow": (MS_NOSYMFOLLOW, True),
    "symfollow": (MS_NOSYMFOLLOW, False),
    "noatime": (MS_NOATIME, True),
    "atime": (MS_NOATIME, False),
    "nodiratime": (MS_NODIRATIME, True),
    "diratime": (MS_NODIRATIME, False),
    "relatime": (MS_RELATIME, True),
    "norelatime": (MS_RELATIME, False),
    "strictatime": (MS_STRICTATIME, True),
    "nostrictatime": (MS_STRICTATIME, False),
    "lazytime": (MS_LAZYTIME, True),
    "nolazytime": (MS_LAZYTIME, False),
}
"""Option -> mount(2) flag, and whether the option sets or clears it."""

_FOR_OTHERS: Final = frozenset(
    (
        "defaults", "auto", "noauto", "nofail", "_netdev", "user", "users", "nouser", "owner",
        "group", "async", "silent", "loud", "default_permissions",
    )
)  # fmt: skip
"""Words that mount(8) and systemd act on, or that say what is the case anyway."""

_VALUES: Final = ("name", "log", "record", "on_log_failure", "deadline")
_WORDS: Final = ("allow_other", "private")

DEFAULT_FLAGS: Final = MS_NOSUID | MS_NODEV

_FORBIDDING: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOSYMFOLLOW
_CAN_BE_ALLOWED: Final = MS_NOEXEC | MS_NOSYMFOLLOW
_ATIME: Final = MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME

_DEADLINES_S: Final = (0.1, 3600)

_COMMA: Final = re.compile(r"(?<!\\),")


class MountConfig(msgspec.Struct):
    """One mount.

    Attributes:
        source: absolute path of the directory or file to serve.
        mountpoint: absolute path where it appears.
        name: the volume's name in the log.
        log: file that gets the access records, "-" for stdout, "none" for no log.
        flags: flags of mount(2).
        allowed: which of the flags noexec and nosymfollow were cleared expressly.
        allow_other: other users than the one who mounts may use it.
        subpath: what of the source is served, relative to it; empty for all of it.
        deadline: seconds after which an operation fails that the source has not answered; 0 for
            never.
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
    return [word for word, (flag, on) in _FLAGS.items() if on and flags & flag]


def flags_in(words: Collection[str]) -> int:
    """Return the flags of mount(2) that `words`, those of a line of mountinfo, stand for."""
    found = 0
    for word in words:
        flag, on = _FLAGS.get(word, (0, False))
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
"""Values of --log that are no file."""


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


def _directory(variable: str, of_root: str) -> str:
    if directory := os.environ.get(variable):
        return directory
    if os.geteuid() == 0:
        return of_root
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "fusevol")


class Options(msgspec.Struct):
    """What the words after -o say; None where they say nothing."""

    name: str | None = None
    log: str | None = None
    record: RecordLevel | None = None
    on_log_failure: OnLogFailure | None = None
    flags: int = DEFAULT_FLAGS
    allowed: int = 0
    allow_other: bool | None = None
    deadline: float | None = None
    logging: LogOptions = LogOptions()


def split_options(text: str) -> list[str]:
    """Return the words of `text`, which commas separate; backslashes stay as they are."""
    return [word for word in _COMMA.split(text) if word]


def parse_options(text: str) -> Options:
    """Return what `text`, the comma-separated words after -o, says.

    A comma inside a value is written as backslash, comma.

    Raises:
        UsageError: an unknown word, or a value that is not one of those possible.
        UnsupportedError: record level `open`.
    """
    options = Options()
    for word in split_options(text):
        key, equals, value = word.replace("\\,", ",").partition("=")
        if key in log_options.KNOWN and (value or key == "chain"):
            options.logging = log_options.changed(options.logging, key, value)
        elif key in _VALUES and equals:
            _set_value(options, key, value)
        elif equals and not key.lower().startswith("x-"):
            raise _unknown(word)
        elif key in _FLAGS:
            flag, on = _FLAGS[key]
            options.flags = options.flags | flag if on else options.flags & ~flag
            flag &= _CAN_BE_ALLOWED
            options.allowed = options.allowed & ~flag if on else options.allowed | flag
        elif key == "allow_other":
            options.allow_other = True
        elif key == "private":
            options.allow_other = False
        elif key not in _FOR_OTHERS and not key.lower().startswith(("x-", "comment")):
            raise _unknown(word)
    return options


def parse_level(value: str) -> RecordLevel:
    """Return the record level called `value`; UsageError or UnsupportedError if there is none."""
    if value == "open":
        raise UnsupportedError(
            "record level open is not available in this version; use all or data"
        )
    try:
        return RecordLevel(value)
    except ValueError:
        raise UsageError(f"unknown record level {value!r}; use all or data") from None


def parse_deadline(value: str) -> float:
    """Return a deadline in seconds; UsageError if it is none that can be meant."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if seconds == 0 or _DEADLINES_S[0] <= seconds <= _DEADLINES_S[1]:
        return seconds
    raise UsageError(
        f"deadline={value}: seconds, from {_DEADLINES_S[0]} to {_DEADLINES_S[1]}, or 0 for none"
    )


def _set_value(options: Options, key: str, value: str) -> None:
    if not value:
        raise UsageError(f"option {key} needs a value: {key}=...")
    if key == "record":
        options.record = parse_level(value)
    elif key == "on_log_failure":
        try:
            options.on_log_failure = OnLogFailure(value)
        except ValueError:
            raise UsageError(
                f"unknown policy on_log_failure={value}; use continue or deny"
            ) from None
    elif key == "deadline":
        options.deadline = parse_deadline(value)
    else:
        setattr(options, key, value)


def _unknown(word: str) -> UsageError:
    known = ", ".join((*(f"{key}=" for key in _VALUES + log_options.KNOWN), *_WORDS, *_FLAGS))
    return UsageError(f"unknown mount option {word!r}; known are {known}")
