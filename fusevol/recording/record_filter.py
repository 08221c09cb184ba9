"""Which operations are recorded at all: the options `include`, `exclude`, `success`, `failure`.

A record is written if one of the rules of `include` matches it, or there are none, and none of
`exclude` does (`filter_rules` has their grammar); and if its operation is in the list of those to
record when they succeed, or when they fail, whichever it did. Where a record does not say what a
rule asks for, it is written.

Everything is decided beforehand as far as it can be: for each operation there is a check of what
its records have to be like, where there is anything left to check.
"""

import shlex
from collections.abc import Callable
from typing import Final, Literal

from fusevol.errors import UsageError
from fusevol.model import OnLogFailure
from fusevol.options.log import LogOptions
from fusevol.options.log_words import as_words
from fusevol.record.record import OK, OPERATIONS, AccessRecord
from fusevol.recording.filter_rules import Check, Rule, parse_rules
from fusevol.spelling import did_you_mean

Verdict = Literal["always", "never"]
ALWAYS: Final = "always"
NEVER: Final = "never"

_WORDS: Final = ("include", "exclude", "success", "failure", "coalesce")


class RecordFilter:
    """Which records are written.

    Attributes:
        text: what it was made from, as words of options; empty if all is recorded as it comes.
    """

    def __init__(self, options: LogOptions) -> None:
        """Make one.

        Raises:
            UsageError: a rule or list is not valid; it says which and why.
        """
        self._include = parse_rules("include", options.include, lenient=True)
        self._exclude = parse_rules("exclude", options.exclude)
        self._success = _operations("success", options.success)
        self._failure = _operations("failure", options.failure)
        words = as_words(options)
        self.text = " ".join(f"{key}={shlex.quote(words[key])}" for key in _WORDS if key in words)

    def of(self, op: str) -> "Check | Verdict":
        """Return a check of whether a record of `op` is written, or that it always or never is."""
        succeeding, failing = op in self._success, op in self._failure
        if not (succeeding or failing):
            return NEVER
        included, excluded = (_rules_for(op, rules) for rules in (self._include, self._exclude))
        checks: list[Check] = []
        if self._include:
            if not any((rule.ok and succeeding) or (rule.failed and failing) for rule in included):
                return NEVER
            if all(rule.checks for rule in included):
                checks.append(_any([_all(rule.checks) for rule in included]))
        if excluded:
            if not all(rule.checks for rule in excluded):
                return NEVER
            checks.append(_not(_any([_all(rule.checks) for rule in excluded])))
        if not succeeding:
            checks.insert(0, lambda record: record.result != OK)
        if not failing:
            checks.insert(0, lambda record: record.result == OK)
        return _all(tuple(checks)) if checks else ALWAYS


def check(options: LogOptions, on_failure: OnLogFailure = OnLogFailure.CONTINUE) -> None:
    """Check the words that say what is recorded; UsageError says what is wrong with which."""
    RecordFilter(options)
    if options.coalesce and on_failure is OnLogFailure.DENY:
        raise UsageError(
            "coalesce= and on_log_failure=deny exclude each other, as there may be no space left "
            "for a record that is written later; leave one of them out"
        )


def _rules_for(op: str, rules: tuple[Rule, ...]) -> list[Rule]:
    return [rule for rule in rules if op in rule.ops]


def _operations(key: str, text: str) -> frozenset[str]:
    """Return what a list like `all !read !getattr` means; all where it is empty."""
    words = text.split()
    if not words:
        return frozenset(OPERATIONS)
    chosen: set[str] = set(OPERATIONS) if words[0].startswith("!") else set()
    for word in words:
        op = word.removeprefix("!")
        if op not in OPERATIONS and word not in ("all", "!all", "none"):
            known = f"; use all, none, !OPERATION or {', '.join(OPERATIONS)}"
            raise UsageError(
                f"invalid {key}={text}: unknown operation {word!r}"
                f"{did_you_mean(op, OPERATIONS) or known}"
            )
        named = OPERATIONS if op == "all" else () if op == "none" else (op,)
        if word.startswith("!"):
            chosen.difference_update(named)
        else:
            chosen.update(named)
    return frozenset(chosen)


def _all(checks: tuple[Check, ...]) -> Check:
    if len(checks) == 1:
        return checks[0]
    if len(checks) == 2:
        one, other = checks
        return lambda record: one(record) and other(record)
    return lambda record: all(check(record) for check in checks)


def _any(checks: list[Check]) -> Check:
    if len(checks) == 1:
        return checks[0]
    return lambda record: any(check(record) for check in checks)


def _not(check: Callable[[AccessRecord], bool]) -> Check:
    return lambda record: not check(record)
