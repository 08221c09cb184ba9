"""Which layout the recovery state has: a number that differs where anything in it does.

It is made of the constants that say what is where, as they stand in the modules that use them, so
that nobody has to remember to raise it. Code of another layout does not go on with a state. What
the modules are called does not count: a module that moves leaves the state as it is.
"""

import dataclasses
import hashlib
import importlib
import re
import struct
from functools import cache
from types import ModuleType
from typing import Any, Final

MODULES: Final = (
    "fusevol.recovery.log_cells",
    "fusevol.recovery.counters",
    "fusevol.recovery.journal",
    "fusevol.recovery.nodes",
    "fusevol.recovery.open_handles",
    "fusevol.recovery.region",
    "fusevol.recovery.coalesced_runs",
)
"""Modules that write to the state; what counts is annotated, as constants are."""
_BYTES: Final = 8
_MODULE: Final = re.compile(r"\bfusevol\.(?:\w+\.)*")
"""What stands before the name of a class of fusevol in an annotation."""


@cache
def version() -> int:
    """Return the number of this code's layout."""
    digest = hashlib.blake2b(digest_size=_BYTES)
    for number, name in enumerate(MODULES):
        # Not imported above: these modules need the number themselves.
        for line in _described(importlib.import_module(name)):
            digest.update(f"{number} {_MODULE.sub('', line)}\n".encode())
    return int.from_bytes(digest.digest(), "little")


def _described(module: ModuleType) -> list[str]:
    constants = [
        f"{name} = {_text(vars(module)[name])}"
        for name in module.__annotations__
        if name in vars(module)
    ]
    records = [
        f"{name}: {', '.join(_fields(value))}"
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and _fields(value)
    ]
    return sorted(constants) + sorted(records)


def _text(value: Any) -> str:
    if isinstance(value, struct.Struct):
        return f"{value.format} {value.size}"
    if isinstance(value, frozenset | set):
        return repr(sorted(value))
    return repr(value)


def _fields(kind: type) -> list[str]:
    """Return the fields of a record in their order; nothing for other classes."""
    if dataclasses.is_dataclass(kind):
        return [f"{field.name} {field.type}" for field in dataclasses.fields(kind)]
    return list(getattr(kind, "_fields", ()))
