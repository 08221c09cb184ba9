"""The words that users see: none of the phrases that CONTRIBUTING.md, "Words", replaces."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

PACKAGE: Final = Path(__file__).parents[2] / "fusevol"

_INSTEAD: Final = {
    r"\b(anew)\b": "again, start over, reopen",
    r"\b(is|are) no (?!longer\b|more\b|other\b)": "is not a ..., invalid ...",
    r"\bmeans? nothing\b|\bcan(not)? be meant\b": "is not valid",
    r"\b(tells?|told)\b": "say, report, show",
    r"(?<!user )\bwho(ever)? (asks?|asked|has|mounts|uses?|wants)\b": "the process that ..., users",
    r"\bgo(es)? with\b": "DELETES, is removed with",
    r"\btak(e|es|en) up\b|\bgone on\b": "resume, continue",
    r"\ball (that|what)\b|\ball else\b": "everything that, everything else",
    r"\b(altogether|look-ups?|in vain|somebody)\b": "total, lookups, missing, another user",
    r"\btook up to\b|\bof a hundred\b": "p50, p95, p99",
    r"\btakes (root|a terminal|-f|CAP_|Linux|the Python)": "requires",
}
"""Pattern -> what to write instead."""

_KEPT: Final = frozenset({"the log began anew before all of it was sent"})
"""Texts that are stored: sinks recognise their own gaps by the reason."""


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of strings: f-strings with X for values; docstrings only of commands."""
    apart = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            if any(re.search(r"\b(command|group)\(", ast.unparse(d)) for d in node.decorator_list):
                yield node.lineno, ast.get_docstring(node) or ""
        elif isinstance(node, ast.JoinedStr):
            apart.update(map(id, node.values))
            yield (
                node.lineno,
                "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "X"
                    for part in node.values
                ),
            )
        elif isinstance(node, ast.Constant) and id(node) not in apart:
            yield node.lineno, str(node.value)


def shown(path: Path) -> Iterator[tuple[int, str]]:
    content = path.read_text()
    return texts(ast.parse(content)) if path.suffix == ".py" else iter([(1, content)])


def dialect(text: str) -> list[str]:
    """Return what is wrong with a text, and what to write instead."""
    if text in _KEPT:
        return []
    return [
        f"{found[0]!r}: {instead}"
        for pattern, instead in _INSTEAD.items()
        if (found := re.search(pattern, text))
    ]


FILES: Final = sorted(path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".js", ".html"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_texts_are_plain_english(path: Path) -> None:
    assert [
        f"line {number}: {problem} in {text[:80]!r}"
        for number, text in shown(path)
        for problem in dialect(text)
    ] == []


@pytest.mark.parametrize(
    "source",
    [
        'raise UsageError(f"{text!r} is no time; give one like 10:00")',
        'logger.error("mount %s anew", path)',
        '@cli.command()\ndef top():\n    """Show who has files open, and all that they do."""',
    ],
)
def test_dialect_is_found(source: str) -> None:
    assert [problem for _, text in texts(ast.parse(source)) for problem in dialect(text)]


def test_docstrings_and_plain_words_are_none() -> None:
    source = 'def f():\n    """Start anew."""\n    return "no longer there; the log is not a file"'
    assert [problem for _, text in texts(ast.parse(source)) for problem in dialect(text)] == []
