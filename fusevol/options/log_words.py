"""The options of a log from and to the words of the table."""

from typing import Final

import msgspec

from fusevol.options.kinds import written
from fusevol.options.log import LogOptions
from fusevol.options.table import OPTIONS

LOG_WORDS: Final = {
    option.name: option for option in OPTIONS if option.name in LogOptions.__struct_fields__
}
"""Name -> option, for what is about the log but its place."""

_DEFAULT: Final = LogOptions()


def changed(options: LogOptions, name: str, text: str) -> LogOptions:
    """Return `options` with one of LOG_WORDS set to what `text` means; "" is the default.

    Raises:
        UsageError: it is not valid.
    """
    option = LOG_WORDS[name]
    if not text and not option.can_be_bare:
        return msgspec.structs.replace(options, **{name: getattr(_DEFAULT, name)})
    return msgspec.structs.replace(options, **{name: option.parse(text)})


def as_words(options: LogOptions) -> dict[str, str]:
    """Return what differs from the defaults, as words that mean the same."""
    return {
        name: written(value)
        for name in LogOptions.__struct_fields__
        if (value := getattr(options, name)) != getattr(_DEFAULT, name)
    }
