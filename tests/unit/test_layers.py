"""The architecture, held by a test: who may import whom, and what a module may look like."""

import ast
import graphlib
import importlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import fusevol

PACKAGE: Final = Path(fusevol.__file__).parent

FLOORS: Final = (
    {"errors", "model", "names", "spelling", "terminal"},
    {"linux"},
    {"options"},
    {"record"},
    {"logs", "recovery"},
    {"proof", "inodes", "protocol", "report"},
    {"recording", "volume", "containers"},
    {"logagent", "fuse", "binding", "images"},
    {"mounts"},
    {"processes", "top"},
    {"server"},
    {"metrics", "plugin", "runtime"},
    {"doctor"},
    {"cli"},
)
"""The rooms of the house, from the ground up: each imports itself and what is below its floor."""

FLOOR_OF: Final = {room: number for number, rooms in enumerate(FLOORS, 1) for room in rooms}
FLOOR_OF[""] = 0
"""fusevol/__init__.py."""

RESERVED: Final = {
    "ctypes": {"linux"},
    "pyfuse3": {"fuse"},
    "trio": {"fuse", "processes", "server", "metrics", "plugin", "cli"},
    "textual": {"top"},
    "rich": {"top"},
}
"""Foreign package -> the rooms that may import it."""

BANNED_NAMES: Final = {"common", "helper", "helpers", "misc", "util", "utils"}
"""A module named after nothing in particular becomes a drawer for everything."""

MAX_LINES: Final = 500
MAX_LINES_OF_ROOM: Final = 3000
"""Of a folder, without those in it."""


def room_of(module: str) -> str:
    """`fusevol.linux.files` -> `linux`, `fusevol` -> ``."""
    return module.partition(".")[2].partition(".")[0]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES: Final = {module_name(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(source: str) -> Iterator[str]:
    """What is imported anywhere, for type checkers too; `from a import b` is of a.b if b is one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "relative import: write the full name"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (name if name in MODULES else node.module for name in names)


def violations(room: str, source: str) -> list[str]:
    found = []
    for module in imported_modules(source):
        package = module.partition(".")[0]
        if package == "fusevol":
            target = room_of(module)
            if target != room and FLOOR_OF[target] >= FLOOR_OF[room]:
                found.append(f"{room or 'fusevol/__init__.py'} may not import {module}")
        elif room not in RESERVED.get(package, {room}):
            found.append(f"only {', '.join(sorted(RESERVED[package]))} may import {module}")
    return found


def test_imports_go_down_the_floors() -> None:
    assert {room_of(module) for module in MODULES} == set(FLOOR_OF)
    found = {module: violations(room_of(module), source) for module, source in MODULES.items()}
    assert {module: wrong for module, wrong in found.items() if wrong} == {}


def test_no_modules_import_one_another() -> None:
    graph = {
        module: {name for name in imported_modules(source) if name in MODULES} - {module}
        for module, source in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # names a circle, if there is one


def test_each_module_can_be_imported() -> None:
    for module in MODULES:
        importlib.import_module(module)


def test_what_is_loaded_by_a_string_is_there() -> None:
    named = {
        (module, node.value.partition(":")[0])
        for module, source in MODULES.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"fusevol(\.\w+)+(:\w+)?", node.value)
    }
    assert ("fusevol.mounts.registry", "fusevol.processes.keeper") in named
    missing = {(module, name) for module, name in named if name not in MODULES}
    assert missing == {("fusevol.record.formats.ecs", "fusevol.access")}  # a data set's name


def test_modules_have_sizes_and_names_of_their_own() -> None:
    lines = {module: len(source.splitlines()) for module, source in MODULES.items()}
    assert {module for module, count in lines.items() if count > MAX_LINES} == set()
    folders = Counter[Path]()
    for path in PACKAGE.rglob("*.py"):
        folders[path.parent] += lines[module_name(path)]
    assert {folder for folder, count in folders.items() if count > MAX_LINES_OF_ROOM} == set()
    assert {module for module in MODULES if BANNED_NAMES & set(module.split("."))} == set()


def test_each_room_is_named_for_newcomers() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    table = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"(?m)^\| `fusevol/(\w+)` \|", table)) == rooms
    trees = {room: ast.parse(MODULES[f"fusevol.{room}"]) for room in rooms}
    assert [room for room, tree in trees.items() if not ast.get_docstring(tree)] == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("volume", "import fusevol.fuse.operations"),
        ("volume", "from fusevol.processes import worker"),
        ("volume", "from fusevol import cli"),
        ("volume", "if TYPE_CHECKING:\n    import trio"),
        ("inodes", "from fusevol.proof.keys import mac"),
        ("linux", "from fusevol.record import record"),
        ("model", "import fusevol.errors"),
        ("fuse", "import fusevol.binding.bind"),
        ("logs", "def f():\n    import ctypes"),
        ("server", "import pyfuse3.asyncio"),
        ("", "import fusevol.model"),
    ],
)
def test_forbidden_import_is_found(room: str, source: str) -> None:
    assert len(violations(room, source)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("recording", "import fusevol.linux.files"),
        ("cli", "import trio\nfrom fusevol import __version__, errors"),
        ("options", "from fusevol.model import RecordLevel"),
        ("fuse", "import pyfuse3\nimport fusevol.fuse.middleware\nimport fusevol.linux.files"),
        ("linux", "import ctypes.util"),
    ],
)
def test_allowed_import_is_not_reported(room: str, source: str) -> None:
    assert violations(room, source) == []
