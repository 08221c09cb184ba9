"""What is wrong with the options of a log, before anything is made with them."""

from fusevol.logagent import retention, sinks
from fusevol.model import OnLogFailure
from fusevol.options.log import Compression, LogOptions
from fusevol.proof import conditions
from fusevol.recording import record_filter


def check_log_options(options: LogOptions, log: str, on_log_failure: OnLogFailure) -> None:
    """See whether a log can be as it is wanted.

    Args:
        options: what is wanted.
        log: a file, "-", "none", or empty for a file of fusevol's choice.
        on_log_failure: the policy.

    Raises:
        UsageError: the options make no sense, and why.
        UnsupportedError: a package is missing, and which.
        FusevolError: the key of the chain cannot be used.
    """
    options.check(log)
    record_filter.check(options, on_log_failure)
    sinks.parse_all(options.sinks)
    conditions.check(options, log)
    if options.compress is Compression.ZSTD:
        retention.compressor()
