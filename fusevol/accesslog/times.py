"""Times as the access log writes them: RFC 3339 in UTC."""

import time

_second = -1
_prefix = ""


def rfc3339_us(ns: int) -> str:
    """Return nanoseconds since the epoch as text with microseconds.

    Remembers the text of the second, since formatting it costs more than all the rest. One thread.
    """
    global _second, _prefix
    second, rest = divmod(ns // 1000, 1_000_000)
    if second != _second:
        _prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        _second = second
    return f"{_prefix}{rest:06d}Z"


def rfc3339_ns(ns: int) -> str:
    """Return nanoseconds since the epoch as text with nanoseconds; any year, also before 1970."""
    second, rest = divmod(ns, 1_000_000_000)
    try:
        date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    except (OverflowError, ValueError, OSError):
        return f"@{second}.{rest:09d}"
    return f"{date}.{rest:09d}Z"
