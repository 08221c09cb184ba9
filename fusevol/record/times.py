"""Times as the access log writes them: RFC 3339 in UTC."""

import time


class Timestamps:
    """Writes times with microseconds. One thread only.

    Remembers the text of the second, since formatting that costs more than all the rest.
    """

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def of(self, ns: int) -> str:
        """Return nanoseconds since the epoch as text."""
        second, rest = divmod(ns // 1000, 1_000_000)
        if second != self._second:
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._second = second
        return f"{self._prefix}{rest:06d}Z"


def now() -> str:
    """Return the present time as records have it."""
    return Timestamps().of(time.time_ns())


def rfc3339_ns(ns: int) -> str:
    """Return nanoseconds since the epoch as text with nanoseconds.

    A time that no calendar knows (utimensat(2) takes any) becomes "@" and the seconds.
    """
    second, rest = divmod(ns, 1_000_000_000)
    try:
        date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    except (OverflowError, ValueError, OSError):
        return f"@{second}.{rest:09d}"
    return f"{date}.{rest:09d}Z"
