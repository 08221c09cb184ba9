"""The number of the layout is another one as soon as anything in the state is elsewhere."""

import ast
import importlib
import importlib.util
import inspect
import struct
import sys
from dataclasses import make_dataclass

import pytest

from fusevol.errors import FusevolError
from fusevol.recovery import (
    coalesced_runs,
    counters,
    journal,
    layout,
    log_cells,
    nodes,
    open_handles,
    region,
)
from fusevol.recovery.region import Region
from tests.unit.regions import new_region


def _version() -> int:
    return layout.version.__wrapped__()


def test_it_is_the_same_for_the_same_code() -> None:
    assert _version() == layout.version()


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (journal, "CODES", {"new": 1, **{op: n + 1 for op, n in journal.CODES.items()}}),
        (journal, "CODES", dict(zip(reversed(journal.CODES), range(1, 99), strict=False))),
        (journal, "_STRIDE", 32),
        (region, "PROGRESS", region.DEVICE),
        (region, "NODES", region.NODES + 512),
        (nodes, "_ENTRY", struct.Struct("6Q72s")),
        (nodes, "_PARENT", 2),
        (open_handles, "_ENTRY", struct.Struct("12Q88s64s")),
        (open_handles, "SET_ID", 2),
        (open_handles, "OpenEntry", None),
        (coalesced_runs, "_ACCOUNTS", (10, 5)),
        (counters, "BUCKETS", 16),
        (log_cells, "SEQ", 2),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_it_changes_with_each_part(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, value: object
) -> None:
    if value is None:
        first, second, *rest = open_handles.OpenEntry.__dataclass_fields__
        swapped = make_dataclass(name, [second, first, *rest])
        swapped.__module__ = open_handles.__name__
        value = swapped
    monkeypatch.setattr(module, name, value)
    assert _version() != layout.version()


def test_it_is_the_same_when_modules_have_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _version()
    moved = []
    for number, name in enumerate(layout.MODULES):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        elsewhere = f"fusevol.elsewhere.module{number}"
        there = importlib.util.spec_from_file_location(elsewhere, spec.origin)
        assert there is not None
        assert there.loader is not None
        module = importlib.util.module_from_spec(there)
        monkeypatch.setitem(sys.modules, elsewhere, module)
        there.loader.exec_module(module)
        moved.append(elsewhere)
    monkeypatch.setattr(layout, "MODULES", tuple(moved))
    assert _version() == before


def test_a_state_of_another_layout_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with new_region() as state:
        Region.attach(state.fd)
        number = layout.version() + 1
        monkeypatch.setattr(layout, "version", lambda: number)
        with pytest.raises(FusevolError, match="another version"):
            Region.attach(state.fd)
        with pytest.raises(FusevolError, match="another version"):
            counters.read(state.fd)


@pytest.mark.parametrize("name", layout.MODULES)
def test_each_constant_counts(name: str) -> None:
    module = importlib.import_module(name)
    tree = ast.parse(inspect.getsource(module))
    plain = [
        target.id
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name) and target.id.isupper()
    ]
    assert plain == []
