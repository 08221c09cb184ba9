"""The options of a volume, read and checked as those of a mount are."""

from collections.abc import Mapping

from fusevol.mounts.preflight import check_options
from fusevol.options import volume_words
from fusevol.options.volume_words import VolumeOptions


def parse(words: Mapping[str, str], base: VolumeOptions | None = None) -> VolumeOptions:
    """Return `base` (else the defaults) with what `words`, names and values, say.

    Raises:
        UsageError: an unknown word, a value that is not possible, or one that does not go with
            another.
        UnsupportedError: record level `open`, or a package is missing.
        FusevolError: the key of the chain cannot be used.
    """
    options = volume_words.parse(words, base)
    check_options(options.logging, options.log, options.on_log_failure)
    return options
