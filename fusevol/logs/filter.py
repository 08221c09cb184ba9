"""Which records of an access log a reader wants.

A filter is compiled once into a predicate that checks nothing but what was asked for.
"""

import errno
import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final

from fusevol.logs.reader import Predicate
from fusevol.record.container_ids import container_check
from fusevol.record.record import OK, AccessRecord

FAILED: Final = "failed"
RESULTS: Final = (OK, FAILED, *sorted(errno.errorcode.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Conditions that all have to hold; of several values for one condition, any will do.

    A `gap` record matches whenever time and volume do: what it stands for might have matched.

    Attributes:
        ops: names of operations and events.
        paths: patterns for `path` and `to`, see `path_matcher`.
        uids, pids: callers.
        containers: full ids, beginnings of ids, or whole names; "-" for processes of the host.
        results: "ok", "failed", or names of errnos.
        volumes: names of volumes.
        since, until: from this time on, and before that one, as `parse_time` returns them.
    """

    ops: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    uids: tuple[int, ...] = ()
    pids: tuple[int, ...] = ()
    containers: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None

    def compile(self) -> Predicate:
        """Return a function that says whether a record matches.

        Raises:
            ValueError: a pattern for paths is not valid.
        """
        is_in_scope = _all(self._scope())
        checks = self._checks()
        if not checks:
            return is_in_scope
        matches = _all(checks)

        def matches_in_scope(record: AccessRecord) -> bool:
            return (matches(record) or record.op == "gap") and is_in_scope(record)

        return matches_in_scope

    @property
    def keys(self) -> frozenset[str]:
        """Return which keys of a record the predicate looks at."""
        return frozenset(
            key
            for name, keys in _KEYS.items()
            if getattr(self, name) not in ((), None)
            for key in keys
        )

    def _scope(self) -> list[Predicate]:
        """Where and when: what a gap has, too."""
        checks: list[Predicate] = []
        if self.volumes:
            volumes = frozenset(self.volumes)
            checks.append(lambda record: record.volume in volumes)
        # All times of a log have the same format, so that their order is the order of their texts.
        if (since := self.since) is not None:
            checks.append(lambda record: record.time >= since)
        if (until := self.until) is not None:
            checks.append(lambda record: record.time < until)
        return checks

    def _checks(self) -> list[Predicate]:
        checks: list[Predicate] = []
        if self.ops:
            ops = frozenset(self.ops)
            checks.append(lambda record: record.op in ops)
        if self.uids:
            uids = frozenset(self.uids)
            checks.append(lambda record: record.uid in uids)
        if self.pids:
            pids = frozenset(self.pids)
            checks.append(lambda record: record.pid in pids)
        if self.results:
            checks.append(result_check(frozenset(self.results)))
        if self.containers:
            checks.append(container_check(self.containers))
        if self.paths:
            checks.append(_path_check(self.paths))
        return checks


_KEYS: Final = {
    "ops": ("op",),
    "paths": ("path", "to"),
    "uids": ("uid",),
    "pids": ("pid",),
    "containers": ("container", "pid", "identity_error"),
    "results": ("result",),
    "volumes": ("volume",),
    "since": ("time",),
    "until": ("time",),
}
"""Condition -> the keys that it is about."""


def _all(checks: list[Predicate]) -> Predicate:
    return functools.reduce(_both, checks) if checks else lambda _record: True


def _both(one: Predicate, other: Predicate) -> Predicate:
    return lambda record: one(record) and other(record)


def result_check(results: frozenset[str]) -> Predicate:
    """Return a function that says whether a record has one of these results (`parse_result`)."""
    if FAILED in results:
        return lambda record: record.result != OK or OK in results
    return lambda record: record.result in results


def _path_check(patterns: tuple[str, ...]) -> Predicate:
    matchers = [path_matcher(pattern) for pattern in patterns]

    def check(record: AccessRecord) -> bool:
        path, to = record.path, record.to
        for matches in matchers:
            if (path is not None and matches(path)) or (to is not None and matches(to)):
                return True
        return False

    return check


_ONE_BYTE_OR_CHARACTER: Final = r"(?:[^/\\]|\\\\|\\x[0-9a-f]{2})"
_WILDCARDS: Final = re.compile(r"(?P<any>\*+)|(?P<one>\?)|\[(?P<not>!?)(?P<set>[^/][^]/]*)\]")
_RANGE_OR_CHARACTER: Final = re.compile(r"(.)-(.)|(.)", re.DOTALL)


def path_matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that says whether a path of the log matches `pattern`.

    The rules are those of gitignore(5), but for two things: the backslash has no meaning of its
    own, as names are given the way the log writes them, and a wildcard in the last part does not
    reach below what it matches.

        report.txt     whatever has this name, in any directory, and everything below it
        /etc           /etc and everything below it; a slash at the beginning or inside of the
                       pattern ties it to the root of the volume
        /etc/          only what is below it
        *.db           whatever has such a name, in any directory; `*` stands for any part of a
                       name, `?` for one character, `[a-z]` and `[!a-z]` for one of a set
        /home/*/mail   `*` never crosses a slash
        /srv/**/*.db   `**` stands for any number of directories, none included
        /srv/**        everything below /srv

    Raises:
        ValueError: `pattern` is empty or has a set like `[z-a]`.
    """
    if not pattern:
        raise ValueError("empty pattern; use `/` for everything")
    # An argument with bytes that are not UTF-8 becomes what the log writes for them.
    pattern = os.fsencode(pattern).decode("utf-8", "backslashreplace")
    parts = [part for part in pattern.split("/") if part]
    is_tied = "/" in pattern.rstrip("/") or not parts
    expression = "".join(map(_part_expression, parts if is_tied else ["**", *parts]))
    if pattern.endswith("/") or (parts and parts[-1] == "**"):
        expression += "/.*" if not parts else "/.+"
    elif not _WILDCARDS.search(parts[-1]):
        expression += "(?:/.*)?"
    try:
        matches = re.compile(expression, re.DOTALL).fullmatch
    except re.error as error:
        raise ValueError(f"invalid pattern {pattern!r}: {error.msg}") from None
    return lambda path: matches(path) is not None


def _part_expression(part: str) -> str:
    if part == "**":
        return "(?:/.*)?"
    expression = "/"
    end = 0
    for wildcard in _WILDCARDS.finditer(part):
        expression += re.escape(part[end : wildcard.start()])
        end = wildcard.end()
        if wildcard["any"]:
            expression += "[^/]*"
        elif wildcard["one"]:
            expression += _ONE_BYTE_OR_CHARACTER
        else:
            negation = "^" if wildcard["not"] else ""
            expression += f"(?!/)[{negation}{_set_expression(wildcard['set'])}]"
    return expression + re.escape(part[end:])


def _set_expression(characters: str) -> str:
    return "".join(
        f"{re.escape(first)}-{re.escape(last)}" if first else re.escape(single)
        for first, last, single in _RANGE_OR_CHARACTER.findall(characters)
    )


_AGO: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DAYS_AGO: Final = {"today": 0, "yesterday": 1}


def parse_time(text: str, now: datetime) -> str:
    """Return a point in time the way the log writes it.

    Args:
        text: RFC 3339 (`2026-11-23T10:00:00Z`; parts from the right may be left out, local time
            where no zone is given), `10:00` or `10:00:30` for today, `now`, `today`, `yesterday`
            (their midnight), or how long ago: `90s`, `10m`, `2h`, `1d`, `1w`.
        now: the present, with a time zone.

    Raises:
        ValueError: `text` is nothing of that.
    """
    try:
        moment = _moment(text.strip(), now).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"invalid time {text!r}: expected one such as 2026-11-23T10:00, 10:00, yesterday or 15m"
        ) from None
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _moment(text: str, now: datetime) -> datetime:
    if text == "now":
        return now
    if ago := _AGO.fullmatch(text):
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    if text in _DAYS_AGO:
        return datetime.combine(now.date() - timedelta(days=_DAYS_AGO[text]), time.min)
    if text[2:3] == ":":
        return datetime.combine(now.date(), time.fromisoformat(text))
    return datetime.fromisoformat(text)


def parse_result(text: str) -> str:
    """Return "ok", "failed", or the name of an errno, whatever its case.

    Raises:
        ValueError: `text` is nothing of that.
    """
    if text.lower() in (OK, FAILED):
        return text.lower()
    number = getattr(errno, text.upper(), None)
    if isinstance(number, int):
        return errno.errorcode[number]
    raise ValueError(f"invalid result {text!r}: expected ok, failed or an error such as ENOENT")
