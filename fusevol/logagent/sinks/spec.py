"""The words that name a sink: `[FORMAT@]TARGET`.

journald[:/SOCKET]
syslog[:/SOCKET][:facility=NAME][:enterprise=NUMBER]
unix:/SOCKET
stdout
"""

import enum
import os
from collections.abc import Iterable
from typing import Final

import msgspec

from fusevol.errors import UsageError
from fusevol.options.log import LogFormat
from fusevol.spelling import did_you_mean

FORMS: Final = (
    "journald[:/SOCKET]", "syslog[:/SOCKET][:facility=NAME][:enterprise=NUMBER]", "unix:/SOCKET",
    "stdout",
)  # fmt: skip

FACILITIES: Final = {
    name: code
    for code, name in enumerate(
        ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron",
         "authpriv", "ftp", "ntp", "security", "console", "solaris-cron", "local0", "local1",
         "local2", "local3", "local4", "local5", "local6", "local7")
    )
}  # fmt: skip
"""Names as in syslog.conf -> numbers of RFC 5424."""

_LONGEST_PATH: Final = 107
"""Bytes that a Unix socket's path may have (unix(7))."""
_LARGEST_ENTERPRISE: Final = 2**32 - 1


class SinkKind(enum.StrEnum):
    """Where records go."""

    JOURNALD = "journald"
    SYSLOG = "syslog"
    UNIX = "unix"
    STDOUT = "stdout"


_SOCKETS: Final = {SinkKind.JOURNALD: "/run/systemd/journal/socket", SinkKind.SYSLOG: "/dev/log"}


class SinkSpec(msgspec.Struct, frozen=True):
    """One sink.

    Attributes:
        format: of the line, or of the message; None for what suits the target.
        path: of the socket; empty for stdout.
        facility: of messages to syslog, one of FACILITIES.
        enterprise: private enterprise number that structured data for syslog is named by; None for
            messages without any.
    """

    target: SinkKind
    format: LogFormat | None = None
    path: str = ""
    facility: str = "local0"
    enterprise: int | None = None


def parse(text: str) -> SinkSpec:
    """Return the sink that `text` names.

    Raises:
        UsageError: it is not a valid sink.
    """
    beginning, colon, words = text.partition(":")
    form, at, name = beginning.rpartition("@")
    try:
        target = SinkKind(name)
    except ValueError:
        raise _wrong(text, f"unknown target {name!r}{did_you_mean(name, SinkKind)}") from None
    spec = SinkSpec(target, _format(text, form) if at else None, _SOCKETS.get(target, ""))
    if target is SinkKind.SYSLOG and colon:
        for word in words.split(":"):
            spec = _with_word(text, spec, word)
    elif colon:
        if target is SinkKind.STDOUT:
            raise _wrong(text, "stdout takes no path")
        spec = msgspec.structs.replace(spec, path=_socket(text, words))
    if target is SinkKind.UNIX and not spec.path:
        raise _wrong(text, "the path of the socket is missing")
    return spec


def parse_all(texts: Iterable[str]) -> tuple[SinkSpec, ...]:
    """Return the sinks that `texts` name.

    Raises:
        UsageError: one of them is not valid, or two are the same.
    """
    specs: list[SinkSpec] = []
    for text in texts:
        spec = parse(text)
        if spec in specs:
            raise UsageError(f"sink {text} is given twice")
        specs.append(spec)
    return tuple(specs)


def _with_word(text: str, spec: SinkSpec, word: str) -> SinkSpec:
    key, equals, value = word.partition("=")
    if word.startswith("/"):
        return msgspec.structs.replace(spec, path=_socket(text, word))
    if key == "facility" and equals:
        if value not in FACILITIES:
            known = did_you_mean(value, FACILITIES) or f", expected one of {', '.join(FACILITIES)}"
            raise _wrong(text, f"unknown facility {value!r}{known}")
        return msgspec.structs.replace(spec, facility=value)
    if key == "enterprise" and equals:
        if not (value.isascii() and value.isdigit()) or not 0 < int(value) <= _LARGEST_ENTERPRISE:
            raise _wrong(text, "expected enterprise=N, the number that IANA assigned to you")
        return msgspec.structs.replace(spec, enterprise=int(value))
    raise _wrong(text, f"{word!r} is neither an absolute path nor a known option")


def _format(text: str, name: str) -> LogFormat:
    try:
        return LogFormat(name)
    except ValueError:
        known = did_you_mean(name, LogFormat) or f", expected one of {', '.join(LogFormat)}"
        raise _wrong(text, f"unknown format {name!r}{known}") from None


def _socket(text: str, path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise _wrong(text, "the path of the socket must be absolute")
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise _wrong(text, f"the path of a socket can have at most {_LONGEST_PATH} bytes")
    return path


def _wrong(text: str, why: str) -> UsageError:
    forms = "" if why.endswith("?") else f"; use [FORMAT@] and one of {', '.join(FORMS)}"
    return UsageError(f"invalid sink {text!r}: {why}{forms}")
