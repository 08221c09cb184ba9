"""The grammar of rules that say which records are meant; `record_filter` uses them.

    op=write|unlink path=/etc uid=0; op=rename result=failed

Rules are separated by `;`. A rule is words, separated by spaces, that all have to hold; a word is a
key, `=`, and alternatives separated by `|`; a key given twice has the alternatives of both. Quotes,
'...' or "...", take the meaning from these separators; a backslash has none of its own.

    op          operations: unlink, write, ...
    path        patterns for `path` and `to` of a record, see `filter.path_matcher`
    path~, to~  regular expressions that are found somewhere in `path`, in `to`
    uid, gid, pid
    comm        name of the process
    container   full id, its beginning, or whole name (`container_ids`); - for processes of the host
    result      ok, failed, or errors like ENOENT
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from fusevol.errors import UsageError
from fusevol.logs.filter import parse_result, path_matcher, result_check
from fusevol.record.bounds import LEFT_OUT
from fusevol.record.container_ids import container_check
from fusevol.record.record import OK, OPERATIONS, AccessRecord
from fusevol.spelling import did_you_mean

Check = Callable[[AccessRecord], bool]

_WORD: Final = re.compile(r"(?P<key>[a-z]+~?)=(?P<value>.*)", re.DOTALL)
_HIGHEST_ID: Final = 0xFFFFFFFF
_PATHS: Final = 4096
"""Paths whose match is remembered, for each key of a rule."""

Characters = Sequence[tuple[str, bool]]
"""A text; with each character whether it was quoted."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        ops: the operations that it is about, all where it does not say.
        checks: what else has to hold.
        ok, failed: whether it can hold for operations that succeed, that fail.
    """

    ops: frozenset[str]
    checks: tuple[Check, ...]
    ok: bool
    failed: bool


def parse_rules(key: str, text: str, *, lenient: bool = False) -> tuple[Rule, ...]:
    """Return the rules in `text`, the value of the option `key`.

    Args:
        lenient: conditions also hold where a record does not say: the caller could not be looked
            up, or a part of the path is left out.

    Raises:
        UsageError: names the rule and what is wrong with it.
    """
    rules = []
    for number, characters in enumerate(_split(_unquoted(key, text), ";"), 1):
        words = [word for word in _split(characters, " \t\n") if word]
        if not words:
            continue
        try:
            rules.append(_rule(words, lenient))
        except ValueError as error:
            said = "".join(character for character, _ in characters).strip()
            raise UsageError(f"invalid {key}=, rule {number} ({said}): {error}") from None
    return tuple(rules)


def _unquoted(key: str, text: str) -> Characters:
    characters = []
    quote = ""
    for character in text:
        if character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        else:
            characters.append((character, bool(quote)))
    if quote:
        raise UsageError(f"invalid {key}={text}: missing closing {quote}")
    return characters


def _split(characters: Characters, separators: str) -> Iterator[Characters]:
    start = 0
    for at, (character, is_quoted) in enumerate(characters):
        if character in separators and not is_quoted:
            yield characters[start:at]
            start = at + 1
    yield characters[start:]


def _rule(words: list[Characters], lenient: bool) -> Rule:
    values: dict[str, list[str]] = {}
    for word in words:
        text = "".join(character for character, _ in word)
        said = _WORD.fullmatch(text)
        if said is None or said["key"] not in _CHECKS:
            meant = did_you_mean(text.partition("=")[0], _CHECKS)
            known = f"; expected KEY=VALUE with one of the keys {', '.join(_CHECKS)}"
            raise ValueError(f"unknown condition {text!r}{meant or known}")
        for value in _split(word[said.start("value") :], "|"):
            alternative = "".join(character for character, _ in value)
            if not alternative:
                raise ValueError(f"{said['key']}= needs a value")
            values.setdefault(said["key"], []).append(alternative)
    ops = frozenset(_operation(op) for op in values.pop("op", OPERATIONS))
    results = [parse_result(text) for text in values.get("result", [])]
    return Rule(
        ops,
        tuple(_check(key, alternatives, lenient) for key, alternatives in values.items()),
        ok=not results or OK in results,
        failed=not results or any(result != OK for result in results),
    )


def _check(key: str, alternatives: list[str], lenient: bool) -> Check:
    check = _CHECKS[key](alternatives)
    untold = _UNTOLD.get(key) if lenient else None
    return check if untold is None else lambda record: check(record) or untold(record)


def _has_no_caller(record: AccessRecord) -> bool:
    return record.identity_error is not None


def _has_no_whole_path(record: AccessRecord) -> bool:
    return (record.path is not None and LEFT_OUT in record.path) or _has_no_whole_to(record)


def _has_no_whole_to(record: AccessRecord) -> bool:
    return record.to is not None and LEFT_OUT in record.to


def _operation(text: str) -> str:
    if text not in OPERATIONS:
        known = did_you_mean(text, OPERATIONS) or f"; expected one of {', '.join(OPERATIONS)}"
        raise ValueError(f"unknown operation {text!r}{known}")
    return text


def _numbers(texts: list[str]) -> frozenset[int]:
    for text in texts:
        if not (text.isascii() and text.isdigit()) or int(text) > _HIGHEST_ID:
            raise ValueError(f"{text!r} is not a number from 0 to {_HIGHEST_ID}")
    return frozenset(map(int, texts))


def _uid(texts: list[str]) -> Check:
    uids = _numbers(texts)
    return lambda record: record.uid in uids


def _gid(texts: list[str]) -> Check:
    gids = _numbers(texts)
    return lambda record: record.gid in gids


def _pid(texts: list[str]) -> Check:
    pids = _numbers(texts)
    return lambda record: record.pid in pids


def _comm(texts: list[str]) -> Check:
    names = frozenset(texts)
    return lambda record: record.comm in names


def _result(texts: list[str]) -> Check:
    return result_check(frozenset(map(parse_result, texts)))


def _path(patterns: list[str]) -> Check:
    matches = _any([path_matcher(pattern) for pattern in patterns])

    def check(record: AccessRecord) -> bool:
        path, to = record.path, record.to
        return (path is not None and matches(path)) or (to is not None and matches(to))

    return check


def _path_expression(expressions: list[str]) -> Check:
    is_found = _any(_searches(expressions))
    return lambda record: record.path is not None and is_found(record.path)


def _to_expression(expressions: list[str]) -> Check:
    is_found = _any(_searches(expressions))
    return lambda record: record.to is not None and is_found(record.to)


def _searches(expressions: list[str]) -> list[Callable[[str], object]]:
    try:
        return [re.compile(expression, re.DOTALL).search for expression in expressions]
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"invalid regular expression: {error}") from None


def _any(matchers: Sequence[Callable[[str], object]]) -> Callable[[str], bool]:
    @lru_cache(_PATHS)
    def matches(path: str) -> bool:
        return any(matcher(path) for matcher in matchers)

    return matches


def _nothing(_texts: list[str]) -> Check:
    raise AssertionError("operations are handled above")


_CHECKS: Final[dict[str, Callable[[list[str]], Check]]] = {
    "op": _nothing,
    "path": _path,
    "path~": _path_expression,
    "to~": _to_expression,
    "uid": _uid,
    "gid": _gid,
    "pid": _pid,
    "comm": _comm,
    "container": container_check,
    "result": _result,
}
"""In the order in which errors list them."""

_UNTOLD: Final[dict[str, Check]] = {
    "path": _has_no_whole_path,
    "path~": _has_no_whole_path,
    "to~": _has_no_whole_to,
    "pid": _has_no_caller,
    "comm": _has_no_caller,
    "container": _has_no_caller,
}
"""Key -> check of whether a record does not say enough."""
