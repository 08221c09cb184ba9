"""The architecture, held by a test: who may import whom, and what a module may look like."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import fusevol

PACKAGE: Final = Path(fusevol.__file__).parent

RANKS: Final = {
    "cli": 6,
    "plugin": 6,
    "top": 6,
    "daemon": 5,
    "fuse": 4,
    "container": 4,
    "volume": 3,
    "report": 3,
    "logagent": 3,
    "inodes": 2,
    "linux": 2,
    "recovery": 2,
    "accesslog": 2,
    "config": 1,
    "log_options": 1,
    "errors": 1,
    "model": 1,
    "": 0,
}
"""Layer -> rank; "" is fusevol/__init__.py. A layer imports itself and what has a lower rank."""

SAME_RANK: Final = {
    ("accesslog", "linux"),
    ("inodes", "recovery"),
    ("recovery", "accesslog"),
    ("cli", "plugin"),
    ("cli", "top"),
    ("config", "errors"),
    ("config", "model"),
    ("config", "log_options"),
    ("log_options", "errors"),
}
"""(importer, imported) pairs of one rank that are allowed all the same."""

RESERVED: Final = {
    "ctypes": {"linux"},
    "pyfuse3": {"fuse"},
    "trio": {"fuse", "daemon", "plugin", "cli"},
    "textual": {"top"},
    "rich": {"top"},
}
"""Foreign package -> the layers that may import it."""

BANNED_NAMES: Final = {"common", "helper", "helpers", "misc", "util", "utils"}
"""A module named after nothing in particular becomes a drawer for everything."""

MAX_LINES: Final = 600


def layer_of(module: str) -> str:
    """`fusevol.linux.files` -> `linux`, `fusevol` -> ``."""
    return module.partition(".")[2].partition(".")[0]


def imported_modules(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "relative import: write the full name"
            if node.module == "fusevol":
                # `from fusevol import errors` means a layer, `... import __version__` does not.
                names = {alias.name for alias in node.names}
                yield from (f"fusevol.{name}" if name in RANKS else "fusevol" for name in names)
            else:
                yield node.module


def violations(layer: str, source: str) -> list[str]:
    found = []
    for module in imported_modules(source):
        package = module.partition(".")[0]
        if package == "fusevol":
            target = layer_of(module)
            if (
                target != layer
                and RANKS[target] >= RANKS[layer]
                and (layer, target) not in SAME_RANK
            ):
                found.append(f"{layer or 'fusevol/__init__.py'} may not import {module}")
        elif layer not in RESERVED.get(package, {layer}):
            found.append(f"only {', '.join(sorted(RESERVED[package]))} may import {module}")
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES: Final = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}

every_module = pytest.mark.parametrize("module", MODULES)


@every_module
def test_imports_go_down_the_layers(module: str) -> None:
    layer = layer_of(module)
    assert layer in RANKS, f"{layer} is not in the table of layers"
    assert violations(layer, MODULES[module].read_text()) == []


@every_module
def test_module_can_be_imported_by_itself(module: str) -> None:
    importlib.import_module(module)


@every_module
def test_module_has_a_size_and_name_of_its_own(module: str) -> None:
    lines = len(MODULES[module].read_text().splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: split it by what it owns"
    assert not BANNED_NAMES & set(module.split("."))


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("volume", "import fusevol.fuse.operations"),
        ("volume", "from fusevol.daemon import worker"),
        ("volume", "from fusevol import cli"),
        ("volume", "if TYPE_CHECKING:\n    import trio"),
        ("inodes", "from fusevol.linux.files import open_path"),
        ("linux", "from fusevol.accesslog import record"),
        ("model", "import fusevol.errors"),
        ("fuse", "import fusevol.binding.bind"),
        ("accesslog", "def f():\n    import ctypes"),
        ("daemon", "import pyfuse3.asyncio"),
        ("", "import fusevol.model"),
    ],
)
def test_forbidden_import_is_found(layer: str, source: str) -> None:
    assert len(violations(layer, source)) == 1


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("accesslog", "import fusevol.linux.files"),
        ("cli", "import trio\nfrom fusevol import __version__, errors"),
        ("config", "from fusevol.model import RecordLevel"),
        ("fuse", "import pyfuse3\nimport fusevol.fuse.seam\nimport fusevol.linux.files"),
        ("linux", "import ctypes.util"),
    ],
)
def test_allowed_import_is_not_reported(layer: str, source: str) -> None:
    assert violations(layer, source) == []
