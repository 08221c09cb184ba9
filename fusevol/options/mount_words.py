"""The words after `mount -o`, and what they say."""

import re
from typing import Final

import msgspec

from fusevol.errors import UsageError
from fusevol.linux.mounts import MS_NOEXEC, MS_NOSYMFOLLOW
from fusevol.model import OnLogFailure, RecordLevel
from fusevol.options.config import DEFAULT_FLAGS
from fusevol.options.log import LogOptions
from fusevol.options.log_words import LOG_WORDS, changed
from fusevol.options.table import FLAGS, Option, Place, options_of, unknown

_FOR_OTHERS: Final = frozenset(
    (
        "defaults", "auto", "noauto", "nofail", "_netdev", "user", "users", "nouser", "owner",
        "group", "async", "silent", "loud", "default_permissions",
    )
)  # fmt: skip
"""Words that mount(8) and systemd act on, or that say what is the case anyway."""

_CAN_BE_ALLOWED: Final = MS_NOEXEC | MS_NOSYMFOLLOW

_COMMA: Final = re.compile(r"(?<!\\),")

_OPTIONS: Final = options_of(Place.MOUNT)
_VALUED: Final = {name: option for name, option in _OPTIONS.items() if not option.words}
_WORDS: Final = tuple(word for option in _OPTIONS.values() for word in option.words)


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
    strict: bool = False
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
        said = word.replace("\\,", ",")
        key, equals, value = said.partition("=")
        if key in _VALUED:
            _set_value(options, _VALUED[key], value)
        elif key in _WORDS:
            if equals:
                raise UsageError(f"mount option {key} takes no value")
            _set_word(options, key)
        elif not _is_for_others(key, is_bare=not equals):
            raise unknown("mount option", said, (*_VALUED, *_WORDS))
    return options


def _set_value(options: Options, option: Option, value: str) -> None:
    if not value and not option.can_be_bare:
        raise UsageError(f"mount option {option.name} needs a value: {option.usage}")
    if option.name in LOG_WORDS:
        options.logging = changed(options.logging, option.name, value)
    else:
        setattr(options, option.name, option.parse(value))


def _set_word(options: Options, word: str) -> None:
    if word not in FLAGS:
        options.allow_other = word == "allow_other"
        return
    flag, on = FLAGS[word]
    options.flags = options.flags | flag if on else options.flags & ~flag
    flag &= _CAN_BE_ALLOWED
    options.allowed = options.allowed & ~flag if on else options.allowed | flag


def _is_for_others(key: str, *, is_bare: bool) -> bool:
    if key.lower().startswith("x-"):
        return True
    return is_bare and (key in _FOR_OTHERS or key.lower().startswith("comment"))
