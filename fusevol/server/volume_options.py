"""What a volume is made of, and the words that say so: `volume create -o`, Docker, the config."""

import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from fusevol.errors import UsageError
from fusevol.model import OnLogFailure, RecordLevel
from fusevol.mounts.log_checks import check_log_options
from fusevol.options import log as log_options
from fusevol.options.config import NO_LOG, parse_deadline, parse_level
from fusevol.options.log import LogOptions, parse_boolean

KNOWN: Final = (
    "source", "subpath", "record", "ro", "log", "on_log_failure", "suid", "dev", "noexec",
    "exec", "deadline", *log_options.KNOWN,
)  # fmt: skip
_ALIASES: Final = {"device": "source", "read_only": "ro"}


class VolumeOptions(msgspec.Struct, frozen=True):
    """How a volume is served.

    Attributes:
        source: absolute path of a directory or file; empty for a directory that fusevol keeps.
        subpath: what of the source is the volume, relative; empty for all of it.
        log: file, or "none"; empty for LOG_DIRECTORY/NAME.log.
        suid, dev, noexec: as in mount(8).
        exec: programs can be run although a file system below the source is mounted noexec.
        deadline: seconds after which an operation fails that the source has not answered; 0 for
            never.
        logging: what is written to the log, how, and what becomes of it.
    """

    source: str = ""
    subpath: str = ""
    record: RecordLevel = RecordLevel.ALL
    ro: bool = False
    log: str = ""
    on_log_failure: OnLogFailure = OnLogFailure.CONTINUE
    suid: bool = False
    dev: bool = False
    noexec: bool = False
    exec: bool = False
    deadline: float = 0.0
    logging: LogOptions = LogOptions()


def parse(words: Mapping[str, str], base: VolumeOptions | None = None) -> VolumeOptions:
    """Return `base` (else the defaults) with what `words`, names and values, say.

    `device` is another name for `source`, `read_only` for `ro`; a dash in a name is an underscore.

    Raises:
        UsageError: an unknown word, or a value that is not one of those possible.
        UnsupportedError: record level `open`.
    """
    base = base or VolumeOptions()
    logging = base.logging
    changes: dict[str, Any] = {}
    for word, value in words.items():
        key = word.replace("-", "_")
        key = _ALIASES.get(key, key)
        if key not in KNOWN:
            raise UsageError(f"unknown volume option {word!r}; known are {', '.join(KNOWN)}")
        if key in changes:
            raise UsageError(f"volume option {key} is given twice")
        if key in log_options.KNOWN:
            _refuse_nul(key, value)
            logging = log_options.changed(logging, key, value)
            changes[key] = None
        else:
            changes[key] = _value(key, value)
    changes = {key: value for key, value in changes.items() if key not in log_options.KNOWN}
    options = msgspec.structs.replace(base, logging=logging, **changes)
    check_log_options(logging, options.log, options.on_log_failure)
    return options


def _value(key: str, value: str) -> object:
    _refuse_nul(key, value)
    if key in ("ro", "suid", "dev", "noexec", "exec"):
        return parse_boolean(key, value)
    if key == "record":
        return parse_level(value)
    if key == "deadline":
        return parse_deadline(value)
    if key == "on_log_failure":
        try:
            return OnLogFailure(value)
        except ValueError:
            raise UsageError(
                f"unknown policy on_log_failure={value}; use continue or deny"
            ) from None
    if key == "subpath":
        return _subpath(value)
    return _absolute(key, value)


def _refuse_nul(key: str, value: str) -> None:
    if "\0" in value:
        raise UsageError(f"volume option {key} cannot hold a NUL byte")


def _subpath(value: str) -> str:
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if ".." in parts or value.startswith("/"):
        raise UsageError(f"volume option subpath={value}: a path below the source, without '..'")
    return "/".join(parts)


def _absolute(key: str, value: str) -> str:
    if key == "log" and value in ("", NO_LOG):
        return value
    if not value.startswith("/"):
        # The daemon's working directory is not the caller's.
        raise UsageError(f"volume option {key}={value}: has to be an absolute path")
    return os.path.normpath(value)
