"""Reads the configuration of LoggedFS, and says by which options fusevol records the same.

LoggedFS compares the whole path, that of its mount point included, with a regular expression, and
the operation and its outcome, by their names, with others. It ignores `exclude` where there is no
`include`. Of a link it looks at the new name, of a rename at the old one.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from fusevol.errors import UsageError
from fusevol.record.record import OPERATIONS

_OPERATIONS: Final[dict[str, tuple[str, ...]]] = {
    "getattr": ("getattr", "lookup"),
    "access": (),
    "readlink": ("readlink",),
    "readdir": ("readdir",),
    "mknod": ("mknod", "create"),
    "mkfifo": ("mknod",),
    "mkdir": ("mkdir",),
    "unlink": ("unlink",),
    "rmdir": ("rmdir",),
    "symlink": ("symlink",),
    "rename": ("rename",),
    "link": ("link",),
    "chmod": ("setattr",),
    "chown": ("setattr",),
    "truncate": ("setattr",),
    "utime": ("setattr",),
    "utimens": ("setattr",),
    "open": ("open", "create"),
    "open-readonly": ("open", "create"),
    "open-writeonly": ("open", "create"),
    "open-readwrite": ("open", "create"),
    "read": ("read",),
    "write": ("write",),
    "statfs": ("statfs",),
    "release": ("release",),
    "fsync": ("fsync",),
    "setxattr": ("setxattr",),
    "getxattr": ("getxattr",),
    "listxattr": ("listxattr",),
    "removexattr": ("removexattr",),
}
"""Action of LoggedFS -> operations of fusevol that stand for it."""
_ANYTHING: Final = frozenset(("", ".*", ".*$", "^.*", "^.*$"))
_ATTRIBUTES: Final = ("extension", "uid", "action", "retname")
_UID: Final = re.compile(r"\*|[0-9]{1,10}")


@dataclass
class Translation:
    """What a configuration means.

    Attributes:
        options: options of a mount or volume, and their values.
        notes: where it does not mean quite the same.
    """

    options: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def translate(content: bytes, mountpoint: str = "") -> Translation:
    """Return what a configuration of LoggedFS means.

    Args:
        content: of the file.
        mountpoint: where LoggedFS served its directory, which its expressions may begin with.

    Raises:
        UsageError: it is not such a configuration.
    """
    try:
        root = ET.fromstring(content)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise UsageError(f"invalid configuration of LoggedFS: {error}") from None
    if root.tag != "loggedFS":
        raise UsageError(
            f"invalid configuration of LoggedFS: it begins with <{root.tag}>, not <loggedFS>"
        )
    found = Translation()
    includes, excludes = list(root.iter("include")), list(root.iter("exclude"))
    rules = {
        "include": [*_rules(includes, found, mountpoint)],
        "exclude": [*_rules(excludes, found, mountpoint)],
    }
    if root.get("logEnabled", "true") != "true" or (includes and not rules["include"]):
        found.options = {"success": "none", "failure": "none"}
    elif includes:
        # One that matches everything makes the others needless.
        texts = {
            key: [] if key == "include" and "" in some else some for key, some in rules.items()
        }
        found.options = {key: "; ".join(text) for key, text in texts.items() if text}
        if "" in rules["exclude"]:
            found.options = {"success": "none", "failure": "none"}
    elif excludes:
        found.notes.append("without <include>, LoggedFS records everything and ignores <exclude>")
    found.notes = list(dict.fromkeys(found.notes))
    return found


def _rules(elements: list[ET.Element], found: Translation, mountpoint: str) -> Iterator[str]:
    """Yield a rule or two for each element that can match anything at all."""
    for element in elements:
        if missing := [name for name in _ATTRIBUTES if name not in element.attrib]:
            raise UsageError(f"invalid <{element.tag}> of LoggedFS: missing {', '.join(missing)}")
        expression, uid, action, result = (element.attrib[name] for name in _ATTRIBUTES)
        if not _UID.fullmatch(uid):
            raise UsageError(
                f"invalid <{element.tag}> of LoggedFS: uid={uid!r} is neither * nor a number"
            )
        ops = _operations(action, found)
        results = _matching(result, ("SUCCESS", "FAILURE"))
        if not ops or not results:
            found.notes.append(
                f"<{element.tag} action={action!r} retname={result!r}> never matches"
            )
            continue
        others = [] if uid == "*" else [f"uid={uid}"]
        if len(results) == 1:
            others.append("result=ok" if results[0] == "SUCCESS" else "result=failed")
        if expression in _ANYTHING:
            yield " ".join([*_op_word(ops), *others])
            continue
        pattern = _quoted(_relative(expression, mountpoint, found))
        if path_ops := [op for op in ops if op != "link"]:
            yield " ".join([*_op_word(path_ops), f"path~={pattern}", *others])
        if "link" in ops:
            yield " ".join(["op=link", f"to~={pattern}", *others])


def _op_word(ops: list[str]) -> list[str]:
    return [] if len(ops) == len(OPERATIONS) else [f"op={'|'.join(ops)}"]


def _operations(action: str, found: Translation) -> list[str]:
    """Return the operations that an expression for actions means."""
    actions = _matching(action, tuple(_OPERATIONS))
    if len(actions) == len(_OPERATIONS):
        return list(OPERATIONS)
    for op in ("setattr", "open"):
        group = [name for name, ops in _OPERATIONS.items() if op in ops]
        chosen = [name for name in group if name in actions]
        if 0 < len(chosen) < len(group):
            found.notes.append(f"action={action!r}: {op} covers all of {', '.join(group)}")
    meant = {op for name in actions for op in _OPERATIONS[name]}
    return [op for op in OPERATIONS if op in meant]


def _matching(expression: str, names: tuple[str, ...]) -> list[str]:
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise UsageError(f"invalid expression {expression!r} of LoggedFS: {error}") from None
    return [name for name in names if compiled.search(name)]


def _relative(expression: str, mountpoint: str, found: Translation) -> str:
    """Return an expression for paths inside the volume."""
    _matching(expression, ())
    place = mountpoint.rstrip("/")
    for beginning in (f"^{place}", f"^{re.escape(place)}") if place else ():
        if expression.startswith(beginning):
            return "^" + expression.removeprefix(beginning)
    if expression.startswith("^"):
        found.notes.append(
            f"extension={expression!r} begins at LoggedFS's mount point, which is not part of the "
            f"paths in fusevol's log; give the mount point with --mountpoint"
        )
    return expression


def _quoted(expression: str) -> str:
    if not set(expression) & set(" \t\n;|'\""):
        return expression
    if "'" not in expression:
        return f"'{expression}'"
    # Between two pieces of what is quoted, each in the quotes that it does not hold.
    return '"\'"'.join(f"'{part}'" for part in expression.split("'"))
