"""What a volume is made of, and the words that say so: `volume create -o`, Docker, the config."""

import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from fusevol.errors import UsageError
from fusevol.model import OnLogFailure, RecordLevel
from fusevol.options.config import NO_LOG
from fusevol.options.log import LogOptions
from fusevol.options.log_words import LOG_WORDS, changed
from fusevol.options.table import Option, Place, options_of, unknown

_OPTIONS: Final = options_of(Place.VOLUME)
_NAMES: Final = {name: name for name in _OPTIONS} | {
    alias: option.name for option in _OPTIONS.values() for alias in option.aliases
}
KNOWN: Final = tuple(_OPTIONS)


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
        strict: at level `all` the kernel asks for attributes of directories each time.
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
    strict: bool = False
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
    seen = set()
    for word, text in words.items():
        option = find(word)
        name = option.name
        if name in seen:
            raise UsageError(f"volume option {name} is given twice")
        seen.add(name)
        if name in LOG_WORDS:
            logging = changed(logging, name, text)
        else:
            changes[name] = _value(option, text)
    return msgspec.structs.replace(base, logging=logging, **changes)


def find(word: str) -> Option:
    """Return the option of a volume that goes by a name; a dash stands for an underscore.

    Raises:
        UsageError: there is none.
    """
    name = _NAMES.get(word.replace("-", "_"))
    if name is None:
        raise unknown("volume option", word, KNOWN)
    return _OPTIONS[name]


def _value(option: Option, text: str) -> object:
    value = option.parse(text)
    if not option.kind.is_path or (option.name == "log" and text in ("", NO_LOG)):
        return value
    if not text.startswith("/"):
        # The daemon's working directory is not the caller's.
        raise option.invalid(text, "an absolute path")
    return os.path.normpath(text)
